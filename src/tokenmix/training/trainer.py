"""A thin subclass of Hugging Face's Trainer."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from tokenmix.mixer import TokenMixer
from tokenmix.mixers.heads import HeadGroupAttention


class MixerTrainer(Trainer):
    """Hugging Face's Trainer with three additions.

    - Weight decay touches matrices alone: not A_log, D, dt_bias and other scalars, nor norms, nor biases.
    - Attention built with `monitor=True` has the largest |q.k| / sqrt(e) since the last log written into the log, as
      `max_logit/<layer>/<window>` (with several processes: of the first one's rows).
    - Each line of the log holds `seconds`, the time in training so far, over all starts of a run that was resumed.

    Everything else (bf16, accumulation, many GPUs, checkpoints, exact resume) is the Trainer's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_logits: dict[str, float] = {}
        self._began: float | None = None  # when training would have begun, had it never been stopped

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay."""
        shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
        names = super().get_decay_parameter_names(model)
        return [name for name in names if shapes.get(name, 0) >= 2 and not name.endswith("A_log")]

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """One step, after which monitored attention is read."""
        if self._began is None:
            earlier = [line["seconds"] for line in self.state.log_history if "seconds" in line]
            self._began = time.perf_counter() - (earlier[-1] if earlier else 0.0)
        loss = super().training_step(model, *args, **kwargs)
        for key, value in read_max_logits(model).items():
            self._max_logits[key] = max(value, self._max_logits.get(key, 0.0))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the seconds so far and the largest logits since the last time."""
        more = self._max_logits if "loss" in logs else {}
        if self._began is not None:
            more = {**more, "seconds": time.perf_counter() - self._began}
        super().log({**logs, **more}, *args, **kwargs)
        if "loss" in logs:
            self._max_logits = {}


def read_max_logits(model: nn.Module) -> dict[str, float]:
    """Largest logit of the last forward, by layer and kind of head, of every monitored attention in a model.

    Returns:
        {"max_logit/<layer>/<window or all>": value}; empty where nothing is monitored.
    """
    found: dict[str, float] = {}
    for layer, mixer in enumerate(m for m in model.modules() if isinstance(m, TokenMixer)):
        if isinstance(mixer, HeadGroupAttention) and mixer.max_logit is not None:
            for kind, value in mixer.max_logit_by_window().items():
                found[f"max_logit/{layer}/{kind}"] = value
    return found
