"""Compiling the C sources of this folder with whatever compiler the system has, once for each version of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
PREBUILT = FOLDER / "libtokenmix.so"  # put there by setup.py where a compiler was found at install time
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi")
_SECONDS = 300
_SEALED = sys.platform.startswith("linux")  # elsewhere a signature ends the file


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message says why."""


def source_hash() -> str:
    """16 hexadecimal digits of all sources: libraries made from other sources are not used.

    Example:
        >>> len(source_hash())
        16
    """
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compilers() -> list[list[str]]:
    """Commands of C compilers: the environment variable CC, then cc, gcc and clang, as far as they are on the PATH."""
    found = []
    for command in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        if command and (path := shutil.which(command[0])):
            found.append([path, *command[1:]])
    return found


def compile_library(compilers: list[list[str]], target: Path) -> None:
    """Compile the kernels to `target`, which appears whole or not at all, with the first compiler that can.

    Raises:
        BuildError: no compiler, or what each of them said.
    """
    said = []
    for compiler in compilers:
        try:
            _compile(compiler, target)
        except BuildError as error:
            said.append(str(error))
        else:
            return
    raise BuildError("; ".join(said) or "no C compiler: none of CC, cc, gcc and clang is on the PATH")


def _compile(compiler: list[str], target: Path) -> None:
    """Without OpenMP where that fails."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.stem, suffix=".part", delete=False) as part:
        pass
    said = ""
    try:
        for openmp in (["-fopenmp"], []):
            define = f'-DTOKENMIX_HASH="{source_hash()}"'
            command = [*compiler, *FLAGS, *openmp, define, str(FOLDER / "native.c"), "-o", part.name, "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f"{' '.join(compiler)} did not run: {error}") from error
            if result.returncode == 0:
                _seal(Path(part.name))
                os.chmod(part.name, 0o755)
                os.replace(part.name, target)
                return
            said = said or result.stderr.strip()
    finally:
        Path(part.name).unlink(missing_ok=True)
    raise BuildError(f"{' '.join(compiler)} failed: {said[-500:]}")


def _seal(path: Path) -> None:
    """Put a digest behind a library: loading one that was cut short would end the process."""
    if _SEALED:
        content = path.read_bytes()
        path.write_bytes(content + hashlib.sha256(content).digest())


def check_seal(path: Path) -> None:
    """Refuse a library that is not as it was compiled.

    Raises:
        OSError: it is damaged, or not there.
    """
    content = path.read_bytes()
    if _SEALED and hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise OSError(f"{path}: damaged, or not compiled by tokenmix")


def cached_library(*, anew: bool = False) -> Path:
    """The library in the first cache folder that has it; compiled into the first that can be written, if none has.

    Args:
        anew: compile it again, over one that does not load.

    Raises:
        BuildError: no compiler, no folder, or what the compilers said.
    """
    key = hashlib.sha256("\0".join((source_hash(), *FLAGS, platform.machine(), sys.platform)).encode()).hexdigest()
    name = f"kernels-{key[:16]}.so"
    for folder in cache_folders():
        if not anew and (folder / name).exists() and _is_ours(folder):
            return folder / name
    compilers = find_compilers()
    if not compilers:
        raise BuildError("no C compiler: none of CC, cc, gcc and clang is on the PATH")
    for folder in cache_folders():
        if _can_write(folder):
            compile_library(compilers, folder / name)
            return folder / name
    raise BuildError(f"no folder to build in: {', '.join(map(str, cache_folders()))} cannot be written")


def cache_folders() -> list[Path]:
    """Where libraries are kept: TOKENMIX_CACHE, the user's cache folder, and one of the user's own under /tmp."""
    named = os.environ.get("TOKENMIX_CACHE")
    folders = [Path(named)] if named else []
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # no home
        folders.append((Path(base) if base else Path.home() / ".cache") / "tokenmix")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [*folders, Path(tempfile.gettempdir()) / f"tokenmix-{user}"]


def _is_ours(folder: Path) -> bool:
    """Whether nobody but us, or root, may put a library there."""
    try:
        found = folder.stat()
    except OSError:
        return False
    trusted = not hasattr(os, "getuid") or found.st_uid in (os.getuid(), 0)
    return trusted and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return _is_ours(folder)
    except OSError:
        return False
