"""Whether what a YAML file or the command line says fits a tree of dataclasses, told key by key."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from tokenmix.compare.mistakes import near, told

_EXAMPLES = {  # of mappings whose keys are the user's, by place; * is any such key
    "mixers": "of letters to mixers, such as {a: {mixer: attention, heads: 2}}",
    "mixers.*": "such as {mixer: attention, heads: 2}",
    "stacks": "of names to letters of mixers, such as {attention: a, hybrid: ma}",
    "tasks": "of names to tasks, such as {recall: {task: recall, pairs: [4, 8]}}",
    "tasks.*": "such as {task: recall, pairs: [4, 8]}",
}
_OPTIONAL = ("costs", "portrait")  # sections with a key `measure`
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}


def read_tree(path: str | os.PathLike[str]) -> Any:
    """What a YAML file holds.

    Raises:
        ValueError: a file that cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"CONFIG: expected text in UTF-8 in {path}, found {error.reason}") from error
    except OSError as error:
        raise ValueError(f"CONFIG: expected a file that can be read, found {path} ({error.strerror})") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"CONFIG: expected YAML in {path}, found a mistake{where}: {problem or error}") from error


def check_tree(tree: Any, cls: type[Any], place: str = "", source: str = "") -> None:
    """Refuse a tree that a dataclass of dataclasses cannot be made of.

    Args:
        tree: of YAML.
        cls: the dataclass.
        place: dotted name of the tree; empty for the whole.
        source: the file, which a message about the whole names.

    Raises:
        ValueError: a key that is not known, with the nearest one.
        TypeError: a value of another kind.

    Example:
        >>> Inner = dataclasses.make_dataclass("Inner", [("steps", int)])
        >>> check_tree({"protocl": {}}, dataclasses.make_dataclass("Outer", [("protocol", Inner)]))
        Traceback (most recent call last):
        ValueError: protocl: expected a key among protocol, found 'protocl'; did you mean 'protocol'?
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    if not isinstance(tree, Mapping):
        off = f"; to leave it out: {place}.measure: false" if place in _OPTIONAL else ""
        raise TypeError(
            f"{place or 'CONFIG'}: expected a mapping with keys such as {', '.join(list(fields)[:3])}, "
            f"found {told(tree)}{f' in {source}' if source else ''}{off}"
        )
    for key, value in tree.items():
        here = f"{place}.{key}" if place else str(key)
        if key not in fields:
            known = ", ".join(fields)
            close = near(str(key), fields, f"{place}." if place else "")
            raise ValueError(f"{here}: expected a key among {known}, found {key!r}{close}")
        if dataclasses.is_dataclass(fields[key]):
            check_tree(value, typing.cast("type[Any]", fields[key]), here)
        else:
            check_value(here, value, fields[key])


def check_override(key: str, text: str, cls: type[Any]) -> None:
    """Refuse a typed key that a dataclass of dataclasses does not have, or a value of another kind.

    Args:
        key: dotted, such as "protocol.steps".
        text: what was typed for it.
        cls: the dataclass.

    Raises:
        ValueError: an unknown key, or text that is no YAML.
        TypeError: a value of another kind.
    """
    first, *rest = key.split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{key}: expected YAML, found {text!r}") from error
    hint, way = typing.get_type_hints(cls).get(first), list(rest)
    while way and dataclasses.is_dataclass(hint):
        hint = typing.get_type_hints(hint).get(way.pop(0))
    if hint is str and not way:  # text needs no quotes on a command line
        return
    for part in reversed(rest):
        value = {part: value}
    check_tree({first: value}, cls)


def check_value(place: str, value: Any, hint: Any) -> None:
    """Refuse a value that a type does not fit.

    Args:
        place: dotted name.
        value: of YAML; a string that reads as a number is one.
        hint: the type.

    Raises:
        TypeError: with place, expectation and finding.

    Example:
        >>> check_value("costs.lengths", 64, list[int])
        Traceback (most recent call last):
        TypeError: costs.lengths: expected a list of whole numbers, found 64
    """
    if get_origin(hint) is not dict:
        if not _fits(value, hint):
            raise TypeError(f"{place}: expected {_words(hint)}, found {told(value)}")
        return
    example = _EXAMPLES.get(place) or _EXAMPLES.get(f"{place.rpartition('.')[0]}.*", "of names to values")
    if not isinstance(value, Mapping):
        raise TypeError(f"{place}: expected a mapping {example}, found {told(value)}")
    for key, inner in value.items():
        if not isinstance(key, str):
            note = " (YAML reads yes, no, on and off as such: put it in quotes)" if isinstance(key, bool) else ""
            raise TypeError(f"{place}: expected names as keys, found {key!r}{note}")
        check_value(f"{place}.{key}", inner, get_args(hint)[1])


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(part, inner[0]) for part in value)
    if hint in (int, float):
        if isinstance(value, str):
            return _reads_as(hint, value)
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _reads_as(kind: type[int] | type[float], text: str) -> bool:
    try:
        kind(text)  # 1e-3 is a string in YAML 1.1
    except ValueError:
        return False
    return True


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(kind) for kind in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is list:
        return f"a list of {_SEVERAL.get(inner[0], 'values')}"
    return _WORDS.get(hint, "a value")
