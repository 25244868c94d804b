"""Their tests run only under `make test-hf`, which has fetched them; with a fault where one is named."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "TOKENMIX_HF_SUITE" in os.environ else ["*.py"]
if os.environ.get("TOKENMIX_FAULT"):
    from faults import FAULTS

    FAULTS[os.environ["TOKENMIX_FAULT"]]()
