"""FIT: tokens in groups and latents that see all groups, interleaved; encoder and autoregressive."""

from tokenmix.models.fit.causal_lm import FITForCausalLM
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.model import FITModel, FITOutput
from tokenmix.models.fit.state import FITState

__all__ = ["FITConfig", "FITForCausalLM", "FITModel", "FITOutput", "FITState"]
