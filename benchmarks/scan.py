"""The selective scan, its memory, and Mamba models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.modules import module_pair
from benchmarks.rows import Pair, Row, function_pair
from tokenmix import kernels
from tokenmix.blocks import MixerBlock
from tokenmix.mixers.mamba import Mamba
from tokenmix.ops.selective_scan import selective_scan

CHANNELS, STATES = 512, 16


def inputs(length: int) -> list[Tensor]:
    """x, dt, A, B, C as at the start of a Mamba layer."""
    generator = torch.Generator().manual_seed(0)
    x, dt = (torch.randn(1, length, CHANNELS, generator=generator) for _ in range(2))
    B, C = (torch.randn(1, length, STATES, generator=generator) for _ in range(2))
    A = -torch.arange(1.0, STATES + 1).expand(CHANNELS, -1).contiguous()
    return [x, F.softplus(dt - 4), A, B, C]


def ours(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return selective_scan(x, dt, A, B, C)[0]


def plain(*tensors: Tensor) -> Tensor:
    """Without the native kernels: what serves where there is no compiler."""
    with kernels.use("torch"):
        return ours(*tensors)


def transformers_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, mambapy: bool = False) -> Tensor:
    """The scan of transformers' MambaMixer, without and with `use_mambapy`; its layout is (B, C, L)."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    y = mamba_selective_scan(x.mT, dt.mT, A, B.mT, C.mT, use_mambapy=mambapy)
    return y.mT


def reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One token at a time, in float64."""
    h, y = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype), []
    parts = zip(*(tensor.unbind(1) for tensor in (x, dt, B, C)), strict=True)
    for x_t, dt_t, B_t, C_t in parts:
        h = torch.exp(dt_t[..., None] * A) * h + (dt_t * x_t)[..., None] * B_t[:, None]
        y.append((h @ C_t[..., None])[..., 0])
    return torch.stack(y, 1)


def scan_pair(length: int, function: Callable[..., Tensor] = ours, mambapy: bool = False, train: bool = False) -> Pair:
    theirs = partial(transformers_scan, mambapy=mambapy)
    return function_pair(function, theirs, reference, inputs(length), "y x dt A B C", train)


def layer_pair(length: int, width: int = 256, rows: int = 1) -> Pair:
    """Training a Mamba layer; theirs runs on mambapy, since the time of transformers' default is quadratic in L."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    theirs = MambaMixer(MambaConfig(hidden_size=width, use_mambapy=True), 0)
    mixer = Mamba(width)
    theirs.load_state_dict(mixer.state_dict())  # theirs is drawn by a whole model only
    return module_pair(mixer, theirs, torch.randn(rows, length, width), same=mixer)


def block_pair(length: int, width: int = 512, tokens: int = 2048) -> Pair:
    """A block: norm, Mamba, residual; theirs runs on mambapy."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaBlock

    torch.manual_seed(0)
    theirs = MambaBlock(MambaConfig(hidden_size=width, use_mambapy=True), 0)
    block = MixerBlock(Mamba(width), feed_forward=None)
    theirs.mixer.load_state_dict(block.mixer.state_dict())
    return module_pair(block, theirs, torch.randn(tokens // length, length, width), same=block)


SIZES = {"vocab_size": 256, "hidden_size": 256, "num_hidden_layers": 2, "pad_token_id": 0}


def model_pair(length: int, mambapy: bool = False) -> Pair:
    """A language model of 2 layers, width 256, 2 rows: loss and all gradients; ours has the same weights."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    return _language_models(MambaForCausalLM(MambaConfig(**SIZES, use_mambapy=mambapy)), length)


def mamba2_pair(length: int) -> Pair:
    """As `model_pair`, for Mamba-2."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    torch.manual_seed(0)
    return _language_models(Mamba2ForCausalLM(Mamba2Config(**SIZES, num_heads=8, head_dim=64, n_groups=1)), length)


def accelerated_pair(length: int) -> Pair:
    """The Mamba model of transformers as it is, and the same model after `tokenmix.hf.accelerate_mamba`."""
    from transformers import MambaConfig, MambaForCausalLM

    from tokenmix.hf import accelerate_mamba
    from tokenmix.models import from_transformers

    torch.manual_seed(0)
    theirs, ours = (MambaForCausalLM(MambaConfig(**SIZES)) for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    accelerate_mamba(ours)
    return module_pair(ours, theirs, torch.randint(1, 256, (2, length)), same=from_transformers(theirs), call=_loss)


def _language_models(theirs: torch.nn.Module, length: int) -> Pair:
    from tokenmix.models import from_transformers

    ours = from_transformers(theirs)
    return module_pair(ours, theirs, torch.randint(1, 256, (2, length)), same=ours, call=_loss)


def _loss(model: torch.nn.Module, ids: Tensor) -> Tensor:
    return model(ids, labels=ids, use_cache=False).loss


SLOW, PARALLEL = "transformers' loop", "transformers' use_mambapy"
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
mambapy_train = partial(scan_pair, mambapy=True, train=True)
MODEL = "Mamba model, 2 layers of 256, forward + backward"
ROWS = [
    Row("scan/forward", "selective scan, forward", SLOW, scan_pair, 2048, 15, 30, lengths=LENGTHS),
    Row("scan/train", "selective scan, forward + backward", PARALLEL, mambapy_train, 512, 18, 50, ("mambapy",)),
    Row("scan/train", "selective scan, forward + backward", PARALLEL, mambapy_train, 2048, 30, 50, ("mambapy",), 5,
        lengths=LENGTHS),
    Row("scan/memory", "its peak memory", PARALLEL, mambapy_train, 2048, 30, None, ("mambapy",), memory=True),
    Row("scan/no-compiler/forward", "scan in plain torch, forward", SLOW, partial(scan_pair, function=plain), 2048, 3),
    Row("scan/no-compiler/train", "scan in plain torch, forward + backward", PARALLEL,
        partial(mambapy_train, function=plain), 2048, 3, None, ("mambapy",), 5),
    Row("mamba/model", MODEL, "transformers", model_pair, 256, 50, rounds=3),
    Row("mamba/model", MODEL, PARALLEL, partial(model_pair, mambapy=True), 256, 4.5, None, ("mambapy",)),
    Row("mamba/accelerated", "the same after accelerate_mamba", "transformers", accelerated_pair, 256, rounds=3),
    Row("mamba2/model", MODEL.replace("Mamba", "Mamba-2"), "transformers", mamba2_pair, 256),
    Row("mamba/block", "Mamba block of 512, forward + backward", PARALLEL, block_pair, 1024, 6, None, ("mambapy",), 5),
    Row("mamba/memory", "peak memory of training a Mamba layer of 256", PARALLEL, layer_pair, 8192, None, None,
        ("mambapy",), memory=True, lengths=(1024, 2048, 4096, 8192)),
]  # fmt: skip
