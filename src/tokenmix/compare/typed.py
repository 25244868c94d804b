"""What was typed after `tokenmix compare`: CONFIG, and keys of it that are overridden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import yaml

from tokenmix.compare.config import CompareConfig

_FLAGS = ("--print_config", "--help")


class Typed(NamedTuple):
    """CONFIG, the overrides as (key, text), and both as `parse_config` takes them."""

    config: str | None
    overrides: list[tuple[str, str]]
    arguments: list[str]


def split_typed(rest: Sequence[str]) -> Typed:
    """Tell CONFIG from the values of overrides: what follows a `--key` without a `=` is its value.

    Args:
        rest: what was typed, without the command's own options.

    Raises:
        ValueError: more than one CONFIG, or a key without a value.

    Example:
        >>> split_typed(["--protocol.steps", "4", "demo", "--output=x"])[:2]
        ('demo', [('protocol.steps', '4'), ('output', 'x')])
    """
    configs: list[str] = []
    overrides: list[tuple[str, str]] = []
    arguments: list[str] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            configs.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        arguments.append(word)
        if word in _FLAGS:
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"--{key}: expected a value after it, found {words[0] if words else 'nothing'}")
            value = words.pop(0)
            arguments.append(value)
        overrides.append((key, value))
    if len(configs) > 1:
        raise ValueError(f"CONFIG: expected one name or YAML file, found {' and '.join(map(repr, configs))}")
    return Typed(configs[0] if configs else None, overrides, arguments)


def prefer_typed(config: CompareConfig, overrides: Sequence[tuple[str, str]]) -> list[str]:
    """Let what was typed for the protocol go before what a task of the file says for itself under `training`.

    What was typed for the task itself goes before both.

    Args:
        config: of the file and the overrides; changed in place.
        overrides: (key, text).

    Returns:
        A sentence for each value of the file that gave way.
    """
    typed = {key.removesuffix("+") for key, _ in overrides}
    names = {key.removeprefix("protocol.") for key in typed if key.startswith("protocol.")}
    for key, text in overrides:
        whole = yaml.safe_load(text) if key == "protocol" else None
        names |= set(whole) if isinstance(whole, Mapping) else set()
    said = []
    for task, spec in config.tasks.items():
        own = spec.get("training")
        if not isinstance(own, Mapping) or typed & {f"tasks.{task}", f"tasks.{task}.training"}:
            continue
        gone = [name for name in own if name in names and f"tasks.{task}.training.{name}" not in typed]
        if gone:
            config.tasks[task] = {**spec, "training": {key: own[key] for key in own if key not in gone}}
        for name in gone:
            value = getattr(config.protocol, name)
            said.append(f"protocol.{name} {value}, as typed, goes before tasks.{task}.training.{name} {own[name]}")
    return said
