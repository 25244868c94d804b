"""What tests of the native kernels share."""

from contextlib import contextmanager

import pytest
import torch

from tokenmix import kernels


@contextmanager
def at_level(level):
    """The kernels with one kind of vectors, if this processor has it, and fresh memory full of NaN.

    A number that nobody wrote cannot go unseen.
    """
    if not kernels.available():
        pytest.skip(f"no native kernels: {kernels.status()}")
    if kernels.library().tm_set_level(level) != level:
        kernels.library().tm_set_level(-1)
        pytest.skip(f"this processor has no {kernels.LEVELS[level]}")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    kernels.library().tm_set_level(-1)


@pytest.fixture(params=[0, 1, 2], ids=kernels.LEVELS)
def level(request):
    """The kernels with each kind of vectors that this processor has."""
    with at_level(request.param):
        yield


@pytest.fixture(params=[0, 1, 2, "torch"], ids=[*kernels.LEVELS, "torch"])
def path(request):
    """The kernels with each kind of vectors, and plain torch; which of the two it is."""
    if request.param == "torch":
        with kernels.use("torch"):
            yield "torch"
    else:
        with at_level(request.param):
            yield "native"
