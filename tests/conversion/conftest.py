"""Quiet transformers."""

import pytest
from transformers.utils import logging


@pytest.fixture(autouse=True, scope="session")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
