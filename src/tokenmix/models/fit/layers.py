"""FIT's string of layers: how many of each kind, stage by stage."""

from __future__ import annotations

import re
from typing import NamedTuple


class StageLayers(NamedTuple):
    """Layers of one stage: over the tokens of each group, then over the latents of all groups."""

    local: int
    latent: int


def parse_layers(layers: str) -> list[StageLayers]:
    """Read "(2)4(2)": pairs of local layers, in parentheses, and global ones; a last 0 may be left out.

    Raises:
        ValueError: another form, no layer at all, or a stage before the last without global layers, which would be one
            with the next.

    Example:
        >>> parse_layers("(2)4(1)")
        [StageLayers(local=2, latent=4), StageLayers(local=1, latent=0)]
    """
    if not isinstance(layers, str) or not re.fullmatch(r"(\([0-9]+\)[0-9]+)*\([0-9]+\)[0-9]*", layers):
        raise ValueError(
            "layers: expected pairs of local layers in parentheses and global ones, such as '(2)4(2)', found "
            f"{layers!r}"
        )
    pairs = re.findall(r"\(([0-9]+)\)([0-9]*)", layers)
    stages = [StageLayers(int(local), int(latent or 0)) for local, latent in pairs]
    if any(stage.latent == 0 for stage in stages[:-1]):
        raise ValueError(
            f"layers: expected global layers in every stage but the last, found 0 in {layers!r}; count its local "
            "layers to those of the next stage"
        )
    if not any(local + latent for local, latent in stages):
        raise ValueError(f"layers: expected at least one layer, found none in {layers!r}")
    return stages
