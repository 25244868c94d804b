"""What the heads of a registered attention read: everything, a window, or their cell; from options or a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenmix.mixer import check_positive

FIELD = "tokenmix_attention"  # of a config: {name of the attention: options}
MOST_RULES = 7  # different windows and cells of one attention; they are bits of a byte in dense masks
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ls_attention": {"window": 128, "long_heads": None},
    "sliding_window": {"window": 128},
    "cells": {"size": 128},
    "groups": {"groups": None},
}
BUILT_IN = ("ls_attention", "sliding_window", "cells")


class Reads(NamedTuple):
    """What a head reads: everything (None), the last `size` tokens, or its cell of `size` tokens."""

    size: int | None = None
    cells: bool = False


EVERYTHING = Reads()


class HeadRun(NamedTuple):
    """Consecutive heads that read alike, and share whole key heads or lie inside one."""

    heads: slice
    kv_heads: slice
    reads: Reads


@dataclass(frozen=True)
class AttentionSpec:
    """A kind of attention and its options; what a name was registered with.

    Args:
        name: the `attn_implementation`.
        kind: "ls_attention", "sliding_window", "cells" or "groups".
        options: all options of that kind.
    """

    name: str
    kind: str
    options: tuple[tuple[str, Any], ...]

    def of(self, config: Any) -> AttentionSpec:
        """With the options that `config.tokenmix_attention[name]` gives for this name."""
        stated = getattr(config, FIELD, None)
        if not stated or not isinstance(stated, Mapping) or not stated.get(self.name):
            return self
        return make_spec(self.name, self.kind, {**dict(self.options), **stated[self.name]})

    def shares(self) -> list[tuple[int | float | None, Reads]]:
        """(heads, share of the heads, or None for the rest; what they read), in the order of the heads."""
        options = dict(self.options)
        match self.kind:
            case "ls_attention":
                long = options["long_heads"]
                return [(None, Reads(options["window"])), (0.5 if long is None else long, EVERYTHING)]
            case "sliding_window":
                return [(None, Reads(options["window"]))]
            case "cells":
                return [(None, Reads(options["size"], cells=True))]
            case _:
                return [(share, _reads(rule)) for share, rule in options["groups"]]

    def rules(self) -> list[Reads]:
        """The different windows and cells, in order."""
        return list(dict.fromkeys(reads for _, reads in self.shares() if reads.size is not None))

    def runs(self, heads: int, kv_heads: int) -> list[HeadRun]:
        """The heads of a layer, cut where the rule changes, and at key heads where a cut would cross one.

        Args:
            heads: query heads of the layer.
            kv_heads: its key heads.

        Raises:
            ValueError: heads that do not sum to those of the layer.
        """
        counts = self._counts(heads)
        group, low = heads // kv_heads, 0
        runs = []
        for count, (_, reads) in zip(counts, self.shares(), strict=True):
            end = low + count
            while low < end:
                high = end
                if low % group or end % group:  # to the next key head, or as many whole ones as there are
                    high = min(end, (low // group + 1) * group)
                    if low % group == 0 and end - low > group:
                        high = end - end % group
                runs.append(HeadRun(slice(low, high), slice(low // group, -(-high // group)), reads))
                low = high
        return runs

    def _counts(self, heads: int) -> list[int]:
        shares = [share for share, _ in self.shares()]
        counts = [0 if x is None else round(x * heads) if isinstance(x, float) else x for x in shares]
        spare = heads - sum(counts)
        if None in shares:
            counts[shares.index(None)] = spare
        elif spare and all(isinstance(x, float) for x in shares):  # shares that do not divide: the last takes the rest
            counts[-1] += spare
        if min(counts) < 0 or sum(counts) != heads:
            raise ValueError(
                f"{self.name}: expected heads that sum to those of the layer, {heads}, found "
                f"{[x for x in shares if x is not None]}"
            )
        return counts


def make_spec(name: str, source: str | Sequence[Any] | None, options: Mapping[str, Any]) -> AttentionSpec:
    """The spec of a name.

    Args:
        name: the name.
        source: a kind, or a list of head groups; None for the kind of that name.
        options: those that differ from the defaults of the kind.

    Raises:
        ValueError, TypeError: unknown kinds or options, sizes that are not positive integers, shares that do not fit.
    """
    kind: Any = source
    options = dict(options)
    if source is None:
        kind = name if name in BUILT_IN else None
    elif not isinstance(source, str):
        kind, options = "groups", {**options, "groups": source}
    if kind not in _DEFAULTS:
        known = ", ".join(map(repr, BUILT_IN))
        raise ValueError(f"source: expected one of {known} or a list of (heads, rule), found {kind!r} for {name!r}")
    unknown = set(options) - set(_DEFAULTS[kind])
    if unknown:
        raise ValueError(
            f"options of {kind}: expected {', '.join(_DEFAULTS[kind])}, found {', '.join(sorted(unknown))}"
        )
    options = {**_DEFAULTS[kind], **options}
    for key in ("window", "size"):
        if key in options:
            check_positive(key, options[key])
    if options.get("long_heads") is not None:
        _check_share("long_heads", options["long_heads"])
    if kind == "groups":
        options["groups"] = _check_groups(options["groups"])
    spec = AttentionSpec(name, kind, tuple(options.items()))
    if len(spec.rules()) > MOST_RULES:
        raise ValueError(
            f"source: expected at most {MOST_RULES} different windows and cells, found {len(spec.rules())}"
        )
    return spec


def _check_groups(groups: Any) -> tuple[tuple[int | float, Any], ...]:
    if not isinstance(groups, Sequence) or isinstance(groups, str) or not groups:
        raise ValueError(f"groups: expected a list of (heads, rule), found {groups!r}")
    checked = []
    for group in groups:
        if not isinstance(group, Sequence) or len(group) != 2:
            raise ValueError(f"groups: expected pairs (heads or share of them, rule), found {group!r}")
        _check_share("heads of groups", group[0])
        _reads(group[1])
        rule = tuple(group[1].items()) if isinstance(group[1], Mapping) else group[1]
        checked.append((group[0], rule))
    shares = [share for share, _ in checked]
    if all(isinstance(x, float) for x in shares) and abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"groups: expected shares that sum to 1, found {shares}")
    return tuple(checked)


def _check_share(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number of heads or a share of them, found {value!r}")
    if value < 0 or (isinstance(value, float) and value > 1):
        raise ValueError(f"{name}: expected a number of heads, or a share of them from 0 to 1, found {value}")


def _reads(rule: Any) -> Reads:
    """What a rule of a list says: None, a window, or {"cells": size}."""
    if rule is None:
        return EVERYTHING
    if isinstance(rule, tuple):  # a mapping, kept as one can compare it
        rule = dict(rule)
    if isinstance(rule, Mapping):
        if set(rule) != {"cells"}:
            raise ValueError(f'rule: expected None, a window or {{"cells": size}}, found {rule!r}')
        check_positive("cells", rule["cells"])
        return Reads(rule["cells"], cells=True)
    check_positive("window", rule)
    return Reads(rule)
