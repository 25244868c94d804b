"""A sample of what a language model writes."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed


def write_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, *, seed: int = 0, tokens: int = 200
) -> str:
    """Continue a prompt by sampling, at temperature 0.8 and without special tokens.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt: what to continue.
        seed: the same seed gives the same text.
        tokens: how many to write; fewer where the model has places for fewer.

    Returns:
        The prompt and what follows it.
    """
    set_seed(seed)
    inputs: Any = tokenizer(prompt, return_tensors="pt").to(model.device)
    places = getattr(model.config, "max_position_embeddings", None)
    if places is not None:
        tokens = min(tokens, places - inputs["input_ids"].shape[1])
    if tokens < 1:
        return prompt
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "suppress_tokens": tokenizer.all_special_ids}
    written = model.eval().generate(**inputs, **options, do_sample=True, temperature=0.8)
    return str(tokenizer.decode(written[0]))
