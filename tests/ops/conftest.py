"""What tests of the native kernels share."""

import pytest
import torch

from tokenmix import kernels


@pytest.fixture(params=[0, 1, 2], ids=kernels.LEVELS)
def level(request):
    """The kernels with each kind of vectors that this processor has, and fresh memory full of NaN.

    A number that nobody wrote cannot go unseen.
    """
    if not kernels.available():
        pytest.skip(f"no native kernels: {kernels.status()}")
    if kernels.library().tm_set_level(request.param) != request.param:
        kernels.library().tm_set_level(-1)
        pytest.skip(f"this processor has no {kernels.LEVELS[request.param]}")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    kernels.library().tm_set_level(-1)
