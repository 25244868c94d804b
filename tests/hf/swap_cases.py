"""Tiny models of every family whose attention can be swapped, with weights far from those at the start."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

VOCABULARY = 61
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
SCALED_ROPE = {
    "llama3": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
}  # fmt: skip
SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": VOCABULARY, "conv_dim": (16, 16), "conv_stride": (2, 2), "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}  # fmt: skip
PAIR = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip

# name -> (model class, config class, options)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**GROUPED, "attention_bias": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 12}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**TEXT, "num_key_value_heads": 1, "head_dim": 12}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**TEXT, "rotary_pct": 0.25}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, "scale_attn_by_inverse_layer_idx": True},
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", TEXT),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "xlm-roberta": ("XLMRobertaForTokenClassification", "XLMRobertaConfig", TEXT),
    "esm": ("EsmForMaskedLM", "EsmConfig", {**TEXT, "mask_token_id": 3, "position_embedding_type": "rotary"}),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", {**TEXT, "local_attention": 128}),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH),
    "hubert": ("HubertForCTC", "HubertConfig", SPEECH),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**PAIR, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", {**PAIR, "max_position_embeddings": 64}),
}
DECODERS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt_neox", "gpt2", "opt"]
PAIRS = ["whisper", "bart"]


def build(name: str, **options: Any) -> PreTrainedModel:
    """A model in eval mode, every weight normal, norms around 1."""
    model_class, config_class, usual = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**usual, **options})
    return randomize(getattr(transformers, model_class)(config)).eval()


def randomize(model: Any, std: float = 0.2) -> Any:
    """Weights and biases that make mistakes show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, std)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """(batch, length) random tokens, none of them special."""
    return torch.randint(4, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def inputs_of(name: str) -> dict[str, Tensor]:
    """Two inputs, the second shorter, with junk behind it."""
    noise = torch.Generator().manual_seed(1)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=noise)}
    if name in ("wav2vec2", "hubert"):
        mask = torch.ones(2, 200, dtype=torch.long)
        mask[1, 120:] = 0
        return {"input_values": torch.randn(2, 200, generator=noise), "attention_mask": mask}
    if name == "whisper":
        return {"input_features": torch.randn(2, 8, 40, generator=noise), "decoder_input_ids": tokens(2, 11)}
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    inputs = {"input_ids": tokens(2, 11), "attention_mask": mask}
    return {**inputs, "decoder_input_ids": tokens(2, 9, seed=2)} if name == "bart" else inputs


def logits_of(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits of real tokens."""
    with torch.no_grad():
        logits = model(**inputs, **options).logits
    mask = inputs.get("attention_mask")
    if mask is None or logits.dim() < 3 or "decoder_input_ids" in inputs:
        return logits
    if "input_values" in inputs:
        frames: Callable[..., Tensor] = model._get_feature_vector_attention_mask
        mask = frames(logits.shape[1], mask)
    return logits[mask.bool()]


def everywhere(name: str, spec: Any) -> dict[str, Any]:
    """The same mixer in every layer."""
    return {"encoder.all": spec, "decoder.all": spec} if name in PAIRS else {"all": spec}


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Equal up to a tolerance that is absolute and relative."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def left_padded(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows with junk tokens on the left, their attention mask, and the rows alone."""
    longest = max(lengths)
    padded = tokens(len(lengths), longest, seed)
    mask = (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()
    return padded, mask, [row[longest - n :][None] for row, n in zip(padded, lengths, strict=True)]
