"""Generation with little between the steps: the tokens of transformers' `generate`, without its bookkeeping."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.streamers import BaseStreamer

from tokenmix.layout import Layout
from tokenmix.mixer import check_positive
from tokenmix.models.block_transformer import BlockTransformerForCausalLM, BlockTransformerState
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.fit import FITForCausalLM
from tokenmix.models.fit.state import FITState
from tokenmix.models.inputs import check_tokens, last_columns, padding_mask
from tokenmix.models.packed import packed_linears
from tokenmix.stack_state import StackState

LanguageModel = MixerForCausalLM | BlockTransformerForCausalLM | FITForCausalLM
MemoryOf = StackState | BlockTransformerState | FITState  # what `init_state` of such a model gives

# settings of a GenerationConfig that change tokens, which only transformers' loop knows, with the values that do not
_ONLY_THEIRS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_return_sequences": (1,), "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "min_p": (0.0,), "top_h": (),
    "typical_p": (1.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "bad_words_ids": ([],), "min_length": (0,),
    "min_new_tokens": (0,), "suppress_tokens": ([],), "begin_suppress_tokens": ([],), "sequence_bias": ({},),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "guidance_scale": (1.0,), "penalty_alpha": (),
    "exponential_decay_length_penalty": (), "watermarking_config": (), "stop_strings": (), "max_time": (),
    "token_healing": (False,),
}  # fmt: skip


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    streamer: BaseStreamer | None = None,
    pack_weights: bool = False,
    state: MemoryOf | None = None,
) -> Tensor:
    """Continue prompts, as `model.generate` does with the same arguments, and faster.

    The prompt is read in one call, and then one token a row at a time; memory for all tokens is allocated once. The
    tokens are those of `model.generate`, also when sampled after the same `torch.manual_seed`. What it does not know
    (beams, penalties, processors of one's own, stop strings, packed prompts) is for `model.generate`; a
    `generation_config` that asks for it is refused.

    Args:
        model: a language model of this library, in eval mode unless dropout is wanted.
        input_ids: (B, L) prompts, padded on the left.
        attention_mask: (B, L), 1 for real tokens and 0 for padding; default: where `pad_token_id` occurs and is no
            end token, as in transformers, and else no padding.
        max_new_tokens: how many tokens to add at most.
        do_sample: draw tokens, instead of taking the likeliest. Like the next five, by default what
            `model.generation_config` says, and then what transformers does.
        temperature: the logits are divided by it.
        top_k: draw among the k likeliest tokens; 0 for all; 50 where nothing is said, as in transformers.
        top_p: draw among the likeliest tokens that have this probability together.
        eos_token_id: a row is finished after this token, or one of these; the batch when all rows are.
        pad_token_id: what finished rows go on with; default the first of `eos_token_id`.
        streamer: receives the prompt, and each step's tokens, as in transformers.
        pack_weights: on the CPU, read copies of the weights that are laid out for this number of rows, see
            `tokenmix.models.packed.packed_linears`. It pays for more than about 20 new tokens. Logits are equal within
            rounding, so that a token may differ where two are equally likely.
        state: what the model has read before `input_ids`: that of `model.init_state`, after calls of `model.read_last`
            or of this function; advanced in place, over all but the last token of the result. Default: nothing.

    Returns:
        (B, L + new tokens) int64, the prompts and what follows them.

    Raises:
        TypeError: a model of another kind, or tokens that are no integers.
        ValueError: a state of another number of rows, a mask that does not fit or that has padding on the right,
            tokens outside the vocabulary, a setting out of its range, or a `generation_config` with settings that only
            `model.generate` knows.

    Example:
        >>> from tokenmix.models import MixerConfig
        >>> model = MixerForCausalLM(MixerConfig(hidden_size=32, mixers={"m": {"mixer": "mamba"}}, pattern="m")).eval()
        >>> prompt = torch.tensor([[72, 105]])
        >>> tokens = generate(model, prompt, max_new_tokens=5)
        >>> tokens.shape, torch.equal(tokens, model.generate(prompt, max_new_tokens=5, pad_token_id=0))
        (torch.Size([1, 7]), True)
    """
    _check_model(model)
    check_tokens("input_ids", input_ids, model.config.vocab_size)
    check_positive("max_new_tokens", max_new_tokens)
    ends, pad = _special_tokens(model, eos_token_id, pad_token_id)
    draw = _sampler(model, do_sample, temperature, top_k, top_p)
    if state is not None and state.batch_size != input_ids.shape[0]:
        raise ValueError(f"state: expected one for {input_ids.shape[0]} rows, found {state.batch_size}")
    mask = _prompt_mask(input_ids, attention_mask, pad, ends)

    rows, length = input_ids.shape
    model.check_generation((0 if state is None else state.length) + length + max_new_tokens, mask)
    tokens = input_ids.new_empty(rows, length + max_new_tokens, dtype=torch.int64)
    tokens[:, :length] = input_ids
    with torch.inference_mode() if state is None else torch.no_grad():  # a given state may be trained on
        count = _fill(model, tokens, length, mask, draw, ends, pad, streamer, pack_weights, state)
    return tokens if count == tokens.shape[1] else tokens[:, :count].clone()


def _fill(
    model: LanguageModel,
    tokens: Tensor,
    length: int,
    mask: Tensor | None,
    draw: Any,  # LogitsProcessorList | None; theirs says that it wants a LongTensor
    ends: list[int],
    pad: int,
    streamer: BaseStreamer | None,
    pack_weights: bool,
    state: MemoryOf | None,
) -> int:
    """Write into (B, L + new tokens) from place `length` on; returns the number of columns that hold tokens."""
    head, read = model.lm_head, model.read_last
    memory: Any = model.init_state(len(tokens)) if state is None else state
    memory.reserve(memory.length + tokens.shape[1] - 1)  # the last token is not read
    end_ids = torch.tensor(ends, device=tokens.device)
    finished = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    unread, layout = tokens[:, :length], Layout(mask=mask)
    if streamer is not None:
        streamer.put(unread.cpu())
    count = length
    with ExitStack() as packing:
        while count < tokens.shape[1] and not (ends and bool(finished.all())):
            scores = head(read(unread, layout, memory)).float()  # (B, vocabulary)
            chosen = scores.argmax(-1) if draw is None else _draw(draw(tokens[:, :count], scores))
            if ends:
                chosen = chosen.masked_fill(finished, pad)
                finished = finished | torch.isin(chosen, end_ids)
            tokens[:, count] = chosen
            if streamer is not None:
                streamer.put(chosen.cpu())
            if pack_weights and count == length:  # the prompt is read, with its many rows
                packing.enter_context(packed_linears(model, len(tokens)))
            unread, layout, count = chosen[:, None], Layout(), count + 1
    if streamer is not None:
        streamer.end()
    return count


def _draw(scores: Tensor) -> Tensor:
    return torch.multinomial(scores.softmax(-1), 1)[:, 0]


def _check_model(model: LanguageModel) -> None:
    if not isinstance(model, LanguageModel):
        raise TypeError(
            "model: expected a MixerForCausalLM, BlockTransformerForCausalLM or FITForCausalLM, found "
            f"{type(model).__name__}; try its own generate"
        )
    for name, neutral in _ONLY_THEIRS.items():
        found = getattr(model.generation_config, name, None)
        if found is not None and found not in neutral:
            expected = " or ".join(map(repr, (None, *neutral)))
            raise ValueError(
                f"model.generation_config.{name}: expected {expected}, since only model.generate knows it, found "
                f"{found!r}"
            )


class _Ends(NamedTuple):
    ends: list[int]  # tokens after which a row is finished
    pad: int  # what it goes on with


def _special_tokens(model: LanguageModel, eos: int | list[int] | None, pad: int | None) -> _Ends:
    eos = model.generation_config.eos_token_id if eos is None else eos
    pad = model.generation_config.pad_token_id if pad is None else pad
    eos = eos.tolist() if isinstance(eos, Tensor) else eos
    ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    for name, value in [*(("eos_token_id", end) for end in ends), ("pad_token_id", pad)]:
        if value is not None and not 0 <= value < model.config.vocab_size:
            raise ValueError(f"{name}: expected 0 to vocab_size - 1 = {model.config.vocab_size - 1}, found {value}")
    return _Ends(ends, pad if pad is not None else ends[0] if ends else -1)


def _prompt_mask(input_ids: Tensor, attention_mask: Tensor | None, pad: int, ends: list[int]) -> Tensor | None:
    """(B, L) bool; None where all tokens are real."""
    if attention_mask is None:
        mask = input_ids != pad
        return None if pad in ends or bool(mask.all()) else _check_left(mask)
    shape = (input_ids.shape[0], input_ids.shape[1])
    mask_or_none = padding_mask(last_columns("attention_mask", attention_mask, shape, 0))
    return None if mask_or_none is None else _check_left(mask_or_none)


def _check_left(mask: Tensor) -> Tensor:
    if not bool(mask[:, -1].all()):
        row = int((~mask[:, -1]).nonzero()[0, 0])
        raise ValueError(
            f"attention_mask: expected prompts padded on the left, which end in real tokens, found padding at the end "
            f"of row {row}"
        )
    return mask


def _sampler(
    model: LanguageModel, do_sample: bool | None, temperature: float | None, top_k: int | None, top_p: float | None
) -> LogitsProcessorList | None:
    """The processors that transformers would use, in its order; None to take the likeliest token."""
    config = model.generation_config
    do_sample = config.do_sample if do_sample is None else do_sample
    if not do_sample:
        return None
    temperature = _first(temperature, config.temperature, 1.0)
    top_k, top_p = _first(top_k, config.top_k, 50), _first(top_p, config.top_p, 1.0)
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, found {temperature}")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k: expected an integer of at least 0, found {top_k!r}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number above 0 and up to 1, found {top_p}")
    processors = LogitsProcessorList()
    if temperature != 1:
        processors.append(TemperatureLogitsWarper(float(temperature)))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(float(top_p)))
    return processors


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)
