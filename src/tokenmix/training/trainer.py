"""A thin subclass of Hugging Face's Trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    - Each line of the log holds `seconds`, the time in training so far, over all starts of a run that was resumed;
      without that of evaluations and checkpoints.

    Everything else (bf16, accumulation, many GPUs, checkpoints, exact resume) is the Trainer's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_logits: dict[str, float] = {}
        self._began: float | None = None  # when training would have begun, had it never been stopped
        self._stopped: float | None = None  # when the clock was stopped, for an evaluation or a checkpoint

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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, while the clock of training stands."""
        with self.clock_stopped():
            found: dict[str, float] = super().evaluate(*args, **kwargs)
        return found

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.clock_stopped():
            super()._save_checkpoint(*args, **kwargs)

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """A context in which the seconds of training stand."""
        if self._stopped is not None or self._began is None:
            yield
            return
        self._stopped = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - self._stopped
            self._stopped = None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the seconds so far and the largest logits since the last time."""
        more = self._max_logits if "loss" in logs else {}
        if self._began is not None:
            more = {**more, "seconds": (self._stopped or time.perf_counter()) - self._began}
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
