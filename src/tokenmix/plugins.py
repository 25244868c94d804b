"""Classes and sources of the user's own, by `module:Class`, `file.py:Class` or `file.py:NAME`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from tokenmix.mixer import TokenMixer

C = TypeVar("C")
_RUN: set[Path] = set()  # files that registered what they have


def load_mixer_class(target: str) -> type[TokenMixer]:
    """The mixer that a name such as "my_module:MyMixer" or "path/to/my_file.py:MyMixer" stands for; see `load_class`.

    Example:
        >>> load_mixer_class("tokenmix.mixers.gam:GAM").__name__
        'GAM'
    """
    return load_class(target, TokenMixer)


def load_class(target: str, base: type[C]) -> type[C]:
    """The class that "my_module:MyClass" or "path/to/my_file.py:MyClass" stands for.

    It runs the module, so it is for what a person typed, never for what a checkpoint says.

    Args:
        target: module or file, a colon, and the class.
        base: what it must be a subclass of.

    Raises:
        ValueError: no such module, file or class, a module that fails, or a class of another kind.
    """
    place, _, name = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        own = [key for key in classes if issubclass(vars(module)[key], base) and key != base.__name__]
        what = f"no {name!r}" if found is None else f"{name!r}, which is no {base.__name__} subclass"
        kind = {"TokenMixer": "mixers", "Task": "tasks"}.get(base.__name__, "classes")
        raise ValueError(f"{place} has {what}; its {kind}: {', '.join(own) or 'none'}")
    return found


def registered_name(target: str, known: Container[str]) -> str:
    """The name under which the file of "path/to/my_file.py:NAME" registers something; any other name as it is.

    It runs the file, once a process.

    Args:
        target: what the user typed.
        known: where names are registered.

    Raises:
        ValueError: no such file, one that fails, or one that registers no such name.

    Example:
        >>> registered_name("wordnet", {"wordnet"})
        'wordnet'
    """
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        return target
    path = Path(place).resolve()
    if path not in _RUN and path not in _imported_files():
        _load_file(Path(place))
        _RUN.add(path)
    if name not in known:
        raise ValueError(f"name: {place} registers nothing under {name!r}")
    return name


def _imported_files() -> set[Path]:
    """Of the modules of this process, which a program may have imported before it named one of them as a file."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {Path(file).resolve() for file in files if isinstance(file, str)}


def source_digest(target: str) -> str:
    """The first digits of the SHA-256 of the file that a class is in; "" if there is none.

    Example:
        >>> len(source_digest("tokenmix.mixers.gam:GAM"))
        12
    """
    place = target.rpartition(":")[0]
    path = Path(place) if place.endswith(".py") else Path(getattr(_load_module(place), "__file__", None) or "")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules in the working directory, as for `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {name!r}: {error}; a file is given as path/to/file.py:CLASS") from error
    except Exception as error:  # the user's own module may fail in any way
        raise ValueError(f"cannot import {name!r}: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"no file {path} (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"cannot read {path} as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own file may fail in any way
        raise ValueError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return module
