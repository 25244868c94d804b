"""States, decays and softmaxes are computed in float32 or better, whatever the activations are."""

from torch import Tensor, float64


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64.

    Example:
        >>> import torch
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor if tensor.dtype == float64 else tensor.float()
