"""What the stages of a conversion minimise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenmix.hf import MixerAttention


def match_hidden(teacher: PreTrainedModel, student: nn.Module, input_ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """How far each mixer is from the attention in its place, both given what the original model gives its attention.

        error of a layer = sum |mixer(x) - attention(x)|^2 / sum |attention(x)|^2

    over tokens and channels, so it is 1 for a mixer that answers 0, whatever the width of the model and the size of
    its features. The loss is the mean over layers. No mixer reads what another one wrote: layers learn side by side,
    and the student is never run as a whole.

    Args:
        teacher: the original model.
        student: the model whose attention was swapped.
        input_ids: (B, L).

    Returns:
        The loss, and the error of each layer by its number.

    Source:
        The attention transfer of Zhang et al. 2024, "LoLCATs", arXiv 2410.10254, section 3.2, and the hidden-state
        alignment of Bick et al. 2024 (MOHAWK), arXiv 2408.10189, section 4.2, which takes one layer at a time and
        the norm of the difference. Dividing by the size of the answer is ours.
    """
    adapters = {name: module for name, module in student.named_modules() if isinstance(module, MixerAttention)}
    seen = record_attention(teacher, list(adapters), input_ids)
    errors = {}
    for name, adapter in adapters.items():
        args, kwargs, wanted = seen[name]
        found, _ = adapter(*args, **kwargs)
        wanted = wanted.float()
        size = wanted.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
        errors[str(adapter.layer_idx)] = (found.float() - wanted).square().sum() / size
    return torch.stack(list(errors.values())).mean(), {layer: error.detach() for layer, error in errors.items()}


@torch.no_grad()
def record_attention(
    model: PreTrainedModel, names: list[str], input_ids: Tensor
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
    """Run a model, and keep how it calls some of its attention modules.

    Args:
        model: any causal language model.
        names: of modules of it that answer with (features, weights).
        input_ids: (B, L).

    Returns:
        By name: positional arguments, keyword arguments, and the features that were answered.
    """
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]] = {}
    hooks = []
    for name in names:

        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            seen[name] = (args, kwargs, output[0])

        hooks.append(model.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    try:
        model.base_model(input_ids=input_ids, use_cache=False)  # without the head
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def match_logits(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean over tokens of T^2 KL(p || q), p = softmax(teacher / T), q = softmax(student / T), in nats.

    Args:
        teacher_logits, student_logits: (B, L, vocabulary).
        temperature: T.

    Returns:
        A scalar, 0 where both agree.

    Source:
        Hinton et al. 2015, arXiv 1503.02531, for T; MOHAWK's stage 3, arXiv 2408.10189, and "The Mamba in the
        Llama", Wang et al. 2024, arXiv 2408.15237, for its place in a conversion.

    Example:
        >>> logits = torch.randn(1, 3, 5)
        >>> round(match_logits(logits, logits).item(), 6), round(match_logits(logits, logits + 1).item(), 6)
        (0.0, 0.0)
    """
    p = (teacher_logits.float() / temperature).log_softmax(-1)
    q = (student_logits.float() / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().clamp(min=0) * temperature**2
