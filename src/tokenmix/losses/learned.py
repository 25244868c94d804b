"""FILIP's loss with a temperature that is learned."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenmix.losses.contrastive import late_interaction
from tokenmix.ops.precision import at_least_float32


class LateInteraction(nn.Module):
    """`late_interaction` with a temperature that is learned, as CLIP's is.

    Its logarithm is the parameter. Before each use it is put back to where scores are multiplied by no more than
    `max_scale`; unlike a clamp of the result, this leaves it a gradient there, so that it can come back.

    Args:
        temperature: to begin with.
        max_scale: the most that scores are multiplied by.
        gather: compare with the rows of all processes.
        process_group: the processes for `gather`; by default all.
        chunk: pairs whose products are held at once, see `late_interaction_scores`.

    Raises:
        ValueError: numbers that are not above 0, a temperature below 1 / max_scale.

    Example:
        >>> loss = LateInteraction()
        >>> tokens = torch.eye(2)[:, None]
        >>> bool(loss(tokens, tokens) < loss(tokens, tokens.flip(0)))
        True

    Source:
        Radford et al. 2021, CLIP, arXiv 2103.00020, section 2.5 (0.07, and 100); Yao et al. 2021, FILIP, arXiv
        2111.07783.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        max_scale: float = 100.0,
        *,
        gather: bool = False,
        process_group: dist.ProcessGroup | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < max_scale < math.inf:
            raise ValueError(f"max_scale: expected a number above 0, found {max_scale}")
        if not 1 / max_scale <= temperature < math.inf:
            raise ValueError(f"temperature: expected at least 1 / max_scale = {1 / max_scale}, found {temperature}")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.max_scale, self.gather, self.process_group, self.chunk = max_scale, gather, process_group, chunk

    def temperature(self) -> Tensor:
        """The temperature, a number in float32 or better, not below 1 / max_scale."""
        with torch.no_grad():
            self.log_temperature.clamp_(min=-math.log(self.max_scale))
        return at_least_float32(self.log_temperature).exp()

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        text_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        same: Tensor | None = None,
    ) -> Tensor:
        """The loss; see `late_interaction` for the arguments."""
        return late_interaction(
            text,
            image,
            text_mask,
            image_mask,
            temperature=self.temperature(),
            groups=groups,
            same=same,
            gather=self.gather,
            process_group=self.process_group,
            chunk=self.chunk,
        )

    def extra_repr(self) -> str:
        """What the module prints of itself."""
        return f"max_scale={self.max_scale}, gather={self.gather}"
