"""Compiling the C sources of this folder with whatever compiler the system has, once for each version of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
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


def find_compiler() -> str | None:
    """The C compiler: the environment variable CC, or the first of cc, gcc and clang on the PATH."""
    named = os.environ.get("CC", "").split()
    for name in (*named[:1], "cc", "gcc", "clang"):
        if path := shutil.which(name):
            return path
    return None


def compile_library(compiler: str, target: Path) -> None:
    """Compile the kernels to `target`, which appears whole or not at all; without OpenMP where that fails.

    Raises:
        BuildError: with what the compiler said.
    """
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.stem, suffix=".part", delete=False) as part:
        pass
    said = ""
    try:
        for openmp in (["-fopenmp"], []):
            define = f'-DTOKENMIX_HASH="{source_hash()}"'
            command = [compiler, *FLAGS, *openmp, define, str(FOLDER / "native.c"), "-o", part.name, "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f"{compiler} did not run: {error}") from error
            if result.returncode == 0:
                os.chmod(part.name, 0o755)
                os.replace(part.name, target)
                return
            said = said or result.stderr.strip()
    finally:
        Path(part.name).unlink(missing_ok=True)
    raise BuildError(f"{compiler} failed: {said[-500:]}")


def cached_library(compiler: str | None) -> Path:
    """The library in the first cache folder that has it; compiled into the first that can be written, if none has.

    Raises:
        BuildError: no compiler, no folder, or what the compiler said.
    """
    key = hashlib.sha256("\0".join((source_hash(), *FLAGS, platform.machine(), sys.platform)).encode()).hexdigest()
    name = f"kernels-{key[:16]}.so"
    folders = [folder for folder in cache_folders() if _usable(folder)]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    if compiler is None:
        raise BuildError("no C compiler: none of CC, cc, gcc and clang is on the PATH")
    if not folders:
        raise BuildError(f"no folder to build in: {', '.join(map(str, cache_folders()))} cannot be written")
    compile_library(compiler, folders[0] / name)
    return folders[0] / name


def cache_folders() -> list[Path]:
    """Where libraries are kept: TOKENMIX_CACHE, the user's cache folder, and one of the user's own under /tmp."""
    named = os.environ.get("TOKENMIX_CACHE")
    folders = [Path(named)] if named else []
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # no home
        folders.append((Path(base) if base else Path.home() / ".cache") / "tokenmix")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [*folders, Path(tempfile.gettempdir()) / f"tokenmix-{user}"]


def _usable(folder: Path) -> bool:
    """Whether a folder is, or could be made, ours: nobody else may put a library there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def compiler_version(compiler: str) -> str:
    """The first line of `compiler --version`."""
    try:
        result = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return compiler
    return (result.stdout.splitlines() or [compiler])[0]
