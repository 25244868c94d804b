"""Files of the well-known sets, fetched when a user asks for it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path


def download_file(url: str, path: Path, sha256: str | None = None) -> None:
    """Fetch a file; it is there whole, or not at all.

    Args:
        url: where from.
        path: where to; its folder is made.
        sha256: of the content, if it is known.

    Raises:
        ConnectionError: it cannot be fetched; the message says what would mend it. ValueError: another content.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     original = Path(folder, "a.txt")
        ...     _ = original.write_text("text")
        ...     download_file(original.as_uri(), Path(folder, "b.txt"))
        ...     Path(folder, "b.txt").read_text()
        'text'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        try:
            _fetch(url, part, digest)
        except OSError as error:  # URLError is one
            raise ConnectionError(
                f"{url} could not be fetched ({error}); where there is a network, `curl -L -o {path} {url}` does it"
            ) from error
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError(f"{url}: expected sha256 {sha256}, found {digest.hexdigest()}; nothing was kept")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def download_zip(url: str, folder: Path, inner: str) -> None:
    """Fetch an archive and put one folder of it in place.

    Args:
        url: of the archive.
        folder: where the content of `inner` goes; it must not be there, or be empty.
        inner: the folder inside the archive.

    Raises:
        ConnectionError: see `download_file`. ValueError: no such archive, or no such folder in it. FileExistsError:
            something is at `folder`.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise FileExistsError(f"root: expected no folder {folder} to download to, found one without the files; move it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}") as name:
        archive, unpacked = Path(name) / "archive.zip", Path(name) / "unpacked"
        download_file(url, archive)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(unpacked)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{url}: expected a zip archive, found another file ({error})") from error
        if not (unpacked / inner).is_dir():
            found = ", ".join(sorted(path.name for path in unpacked.iterdir())[:5]) or "nothing"
            raise ValueError(f"{url}: expected the folder {inner} in it, found {found}")
        shutil.move(unpacked / inner, folder)


def _fetch(url: str, path: Path, digest: hashlib._Hash) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        urllib.request.urlopen(url, timeout=60) as answer,
        path.open("wb") as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        length = answer.headers.get("Content-Length")
        task = progress.add_task(url.rsplit("/", 1)[-1], total=None if length is None else int(length))
        received = 0
        while block := answer.read(1 << 20):
            digest.update(block)
            file.write(block)
            received += len(block)
            progress.advance(task, len(block))
        if length is not None and received != int(length):
            raise OSError(f"the connection ended after {received} of {length} bytes")
