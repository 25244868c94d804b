"""Configurations: typed dataclasses are the YAML tree, and any key can be overridden on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

C = TypeVar("C")


def parse_config(cls: type[C], arguments: Sequence[str] | None = None, description: str | None = None) -> tuple[C, str]:
    """Read `--config FILE` and overrides such as `--training.steps 10` into a dataclass.

    Args:
        cls: a dataclass whose fields may be dataclasses; the YAML tree is its tree.
        arguments: the command line; default that of the process.
        description: shown by `--help`.

    Returns:
        The configuration, and the whole of it resolved, as YAML.

    Raises:
        SystemExit: 2, after one line on stderr that names the key: a misspelt one (with the nearest), a value
            of another type, or a file that is missing.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file; later options override it")
    parser.add_class_arguments(cls)
    plain, deep = _split_deep_overrides(list(sys.argv[1:] if arguments is None else arguments), known_keys(cls))
    try:
        parsed = parser.parse_args(plain)
        for path, value in deep:
            _set_deep(parsed, path, value)
        config = parser.instantiate(parsed)
    except Exception as error:  # jsonargparse raises its own, argparse's and PyYAML's
        print(_usage_error(cls, str(error)), file=sys.stderr)
        raise SystemExit(2) from None
    settings = parsed.clone()
    settings.pop("config", None)
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(cls) if hasattr(config, f.name)}  # type: ignore[arg-type]  # a dataclass
    return cls(**fields), parser.dump(settings, skip_unset=False)


def _usage_error(cls: type[Any], message: str) -> str:
    """One line, with the nearest keys for one that is unknown."""
    line = " ".join(message.split())
    unknown = re.search(r"(?i)(?:Key|Unrecognized arguments:|option)\s+'?-*([\w.]+)'?", line)
    if unknown is None:
        return f"config: {line}"
    known = known_keys(cls)
    close = difflib.get_close_matches(unknown[1], known, n=3, cutoff=0.5)
    leaf = unknown[1].split(".")[-1]
    close = close or [key for key in known if difflib.SequenceMatcher(None, key.split(".")[-1], leaf).ratio() > 0.7]
    return f"config: {line}" + (f"; did you mean {' or '.join(map(repr, close))}?" if close else "")


def _split_deep_overrides(arguments: list[str], fields: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Take out overrides that reach into a mapping of mappings: jsonargparse would replace the whole entry."""
    plain: list[str] = []
    deep: list[tuple[str, str | None]] = []
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        field = max((f for f in fields if key.startswith(f + ".")), key=len, default=None)
        if argument.startswith("--") and field is not None and key[len(field) + 1 :].count(".") >= 1:
            deep.append((key, value if equals else next(rest, None)))
        else:
            plain.append(argument)
    return plain, deep


def _set_deep(settings: Any, path: str, value: str | None) -> None:
    """Set one value inside nested mappings.

    Raises:
        ValueError: if an entry on the way is not there, or the value is missing or no YAML.
    """
    import yaml

    if value is None:
        raise ValueError(f"{path}: expected a value, found none")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{path}: expected YAML, found {value!r}") from None
    *way, last = path.split(".")
    for depth, key in enumerate(way):
        if key not in settings:
            raise ValueError(f"{path}: expected one of {sorted(settings)} at {'.'.join(way[:depth])}, found {key!r}")
        settings = settings[key]
    settings[last] = parsed


def known_keys(cls: type[Any], prefix: str = "") -> list[str]:
    """Dotted names of all fields of a dataclass tree.

    Example:
        >>> inner = dataclasses.make_dataclass("Inner", [("steps", int)])
        >>> known_keys(dataclasses.make_dataclass("Outer", [("training", inner)]))
        ['training', 'training.steps']
    """
    import typing

    hints = typing.get_type_hints(cls)
    keys = []
    for f in dataclasses.fields(cls):
        keys.append(prefix + f.name)
        if dataclasses.is_dataclass(hints[f.name]):
            keys += known_keys(hints[f.name], prefix + f.name + ".")
    return keys


def mixers_of(mixers: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """The mixers of a pattern; all, where it has an unknown letter, so that the error of the model names them.

    Example:
        >>> mixers_of({"a": "attention", "g": "gam"}, "aa"), mixers_of({"a": "attention", "g": "gam"}, "x")
        ({'a': 'attention'}, {'a': 'attention', 'g': 'gam'})
    """
    unknown = set(pattern) - set(mixers)
    return {letter: mixer for letter, mixer in mixers.items() if unknown or letter in pattern}
