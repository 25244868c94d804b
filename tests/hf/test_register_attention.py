"""Registered attention: what its heads read, in every family, with every cache, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from swap_cases import CASES, DECODERS, PAIRS, assert_close, build, inputs_of, left_padded, logits_of, tokens
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BloomConfig,
    BloomForCausalLM,
    WavLMConfig,
    WavLMModel,
    masking_utils,
)

from fork_server import ForkServer
from tokenmix.hf import swap_mixers
from tokenmix.hf.attention import register_attention, registered_attention
from tokenmix.hf.attention_function import make_attention_function
from tokenmix.hf.attention_masks import make_mask_function
from tokenmix.hf.attention_probe import AttentionProbeError, probe_attention
from tokenmix.hf.attention_rules import make_spec
from tokenmix.hf.attention_use import use_attention

WIDE: dict[str, dict[str, Any]] = {
    "ls_attention": {"window": 128},
    "sliding_window": {"window": 128},
    "cells": {"size": 128},
}
NARROW: dict[str, dict[str, Any]] = {
    "ls_attention": {"window": 3, "long_heads": 1},
    "sliding_window": {"window": 3},
    "cells": {"size": 4},
}
FIXED: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_logits": True,
    "pad_token_id": 0,
    "eos_token_id": None,
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_attention()
    register_attention("mixed_test", [(0.25, None), (0.25, {"cells": 4}), (0.5, 3)])


# ---------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("attention", WIDE)
@pytest.mark.parametrize("name", CASES)
def test_wide_enough_is_the_model_as_it_was(name: str, attention: str) -> None:
    model = build(name)
    inputs = inputs_of(name)
    expected = logits_of(model, inputs)
    calls = use_attention(model, attention, **WIDE[attention])
    assert len(calls) == (6 if name in PAIRS else 3)
    assert_close(logits_of(model, inputs), expected)
    use_attention(model, attention, **NARROW[attention])
    assert (logits_of(model, inputs) - expected).abs().max() > 0.01


def reference(q: Tensor, k: Tensor, v: Tensor, rules: list[Any], causal: bool) -> Tensor:
    """(B, Q, H, E) head by head and query by query in float64; a rule is None, a window or ("cells", size)."""
    batch, heads, length, width = q.shape
    group = heads // k.shape[1]
    y = torch.zeros(batch, length, heads, v.shape[3], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                read = [j for j in range(length) if j <= i or not causal]
                rule = rules[h]
                if isinstance(rule, tuple):
                    read = [j for j in read if j // rule[1] == i // rule[1]]
                elif rule is not None:
                    read = [j for j in read if abs(i - j) < rule]
                scores = k[b, h // group, read].double() @ q[b, h, i].double() / width**0.5
                y[b, i, h] = scores.softmax(0) @ v[b, h // group, read].double()
    return y


SPLITS: dict[str, tuple[Any, dict[str, Any], list[Any]]] = {
    "ls_attention": (None, {"window": 3, "long_heads": 1}, [3, 3, 3, None]),
    "sliding_window": (None, {"window": 2}, [2] * 4),
    "cells": (None, {"size": 3}, [("cells", 3)] * 4),
    "mixed": ([(1, None), (1, {"cells": 4}), (2, 3)], {}, [None, ("cells", 4), 3, 3]),
    "shares": ([(0.5, 2), (0.5, 5)], {}, [2, 2, 5, 5]),
}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", SPLITS)
def test_heads_read_what_they_should(name: str, causal: bool, kv_heads: int) -> None:
    """Also where groups of heads do not end where groups of queries end."""
    source, options, rules = SPLITS[name]
    function = make_attention_function(make_spec(name, source, options))
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 11, 4) for heads in (4, kv_heads, kv_heads))
    module = nn.Module()
    module.is_causal, module.config = causal, SimpleNamespace(sliding_window=None)
    found, weights = function(module, q, k, v, None)
    assert weights is None
    assert_close(found.double(), reference(q, k, v, rules, causal), 1e-5)
    _, shares = function(module, q, k, v, None, output_attentions=True)
    again = torch.einsum("bhqk,bhke->bqhe", shares, v.repeat_interleave(4 // kv_heads, dim=1))
    assert_close(again, found, 1e-5)


def test_nothing_from_outside_a_window() -> None:
    """To the bit: a token beyond the window of every layer changes nothing."""
    model = build("llama")
    use_attention(model, "sliding_window", window=3)
    ids = tokens(1, 11)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 61
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, 7:], after[:, 7:])  # three layers of two tokens back reach six
    assert (before[:, 6] - after[:, 6]).abs().max() > 0


# ---------------------------------------------------------------------- padding, packing, caches


@pytest.mark.parametrize("attention", [*NARROW, "mixed_test"])
@pytest.mark.parametrize("name", DECODERS)
def test_padding_and_caches(name: str, attention: str) -> None:
    model = build(name)
    use_attention(model, attention, **NARROW.get(attention, {}))
    ids, mask, rows = left_padded([9, 4, 1])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        left = model(ids, attention_mask=mask, position_ids=places).logits
        for i, row in enumerate(rows):
            assert_close(left[i, -row.shape[1] :], model(row).logits[0], 1e-4)
    options = {"attention_mask": mask, "max_new_tokens": 5, **FIXED}
    for beams in (1, 3):
        expected = model.generate(ids, use_cache=False, num_beams=beams, **options)
        for more in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
            if more and beams > 1:
                continue
            found = model.generate(ids, num_beams=beams, **more, **options)
            assert torch.equal(found.sequences, expected.sequences)
            for a, b in zip(found.logits, expected.logits, strict=True):
                assert_close(a, b, 1e-4)


@pytest.mark.parametrize("attention", NARROW)
@pytest.mark.parametrize("cache", [None, "static"])
def test_a_window_of_the_model_stays(attention: str, cache: str | None) -> None:
    model = build("mistral", sliding_window=4)
    expected = logits_of(model, inputs_of("mistral"))
    use_attention(model, attention, **WIDE[attention])
    assert_close(logits_of(model, inputs_of("mistral")), expected)
    use_attention(model, attention, **NARROW[attention])
    ids, mask, _ = left_padded([9, 6])
    options = {"attention_mask": mask, "max_new_tokens": 7, **FIXED}
    found = model.generate(ids, cache_implementation=cache, **options)
    for a, b in zip(found.logits, model.generate(ids, use_cache=False, **options).logits, strict=True):
        assert_close(a, b, 1e-4)


@pytest.mark.parametrize("attention", [*NARROW, "mixed_test"])
def test_packed_documents_stay_apart(attention: str) -> None:
    model = build("llama")
    use_attention(model, attention, **NARROW.get(attention, {}))
    documents = [tokens(1, size, seed) for seed, size in enumerate([5, 1, 6])]
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        apart = torch.cat([model(document).logits for document in documents], dim=1)
        assert_close(model(torch.cat(documents, dim=1), position_ids=places, use_cache=False).logits, apart, 1e-4)


@pytest.mark.parametrize("attention", [*WIDE, "mixed_test"])
@pytest.mark.parametrize("window", [None, 2])
def test_packed_documents_stay_apart_where_all_is_read(attention: str, window: int | None) -> None:
    """A mask function that looks ahead and packs: a later document changes nothing, and is read by itself."""
    torch.manual_seed(0)
    spec = registered_attention(attention)
    function, mask_function = make_attention_function(spec), make_mask_function(spec)
    module = nn.Module()
    module.is_causal, module.config = False, SimpleNamespace(sliding_window=window)  # type: ignore[assignment]
    documents = torch.tensor([[0] * 5 + [1] * 7])
    base = masking_utils.bidirectional_mask_function
    if window is not None:
        base = masking_utils.sliding_window_bidirectional_mask_function(window)
    packed = masking_utils.and_masks(base, masking_utils.packed_sequence_mask_function(documents))
    q, k, v = torch.randn(3, 1, 4, 12, 8).unbind(0)

    def read(rows: slice, rule: Any) -> Tensor:
        count = rows.stop - rows.start
        mask = mask_function(1, count, count, mask_function=rule, config=module.config)
        y: Tensor = function(module, q[:, :, rows], k[:, :, rows], v[:, :, rows], mask)[0]
        return y

    whole = read(slice(0, 12), packed)
    assert_close(whole[:, :5], read(slice(0, 5), base))
    assert_close(whole[:, 5:], read(slice(5, 12), base))


def test_training() -> None:
    """Gradients with checkpointing, and compiled, are those without."""
    model = build("llama").train()
    use_attention(model, "ls_attention", window=3)
    ids = tokens(2, 9)

    def gradients(called: Any) -> list[Tensor]:
        model.zero_grad()
        called(ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients(model)
    torch._dynamo.reset()
    for found, value in zip(gradients(torch.compile(model, backend="aot_eager")), expected, strict=True):
        assert_close(found, value)
    model.gradient_checkpointing_enable()
    for found, value in zip(gradients(model), expected, strict=True):
        assert_close(found, value)


def test_dropout_of_attention_is_done() -> None:
    model = build("llama", attention_dropout=0.5)
    use_attention(model, "ls_attention", window=3)
    ids = tokens(1, 9)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("attention", [*NARROW, "mixed_test"])
def test_beside_swapped_layers(attention: str) -> None:
    """A mixer reads padding and packing from the masks of registered attention."""
    model = swap_mixers(build("llama"), {"1": "mamba2"})
    use_attention(model, attention, **NARROW.get(attention, {}))
    ids, mask, rows = left_padded([9, 4, 1])
    with torch.no_grad():
        left = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        for i, row in enumerate(rows):
            assert_close(left[i, -row.shape[1] :], model(row).logits[0], 1e-4)
        documents = [tokens(1, size, seed) for seed, size in enumerate([5, 1, 6])]
        places = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5]])
        apart = torch.cat([model(document).logits for document in documents], dim=1)
        assert_close(model(torch.cat(documents, dim=1), position_ids=places, use_cache=False).logits, apart, 1e-4)
    options = {"attention_mask": mask, "max_new_tokens": 4, **FIXED}
    expected = model.generate(ids, use_cache=False, **options)
    for cache in (None, "static"):
        found = model.generate(ids, cache_implementation=cache, **options)
        for a, b in zip(found.logits, expected.logits, strict=True):
            assert_close(a, b, 1e-4)


# ---------------------------------------------------------------------- storage


LOAD = """
import sys, torch
import tokenmix.hf
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.load(sys.argv[1] + "/ids.pt", weights_only=True)
with torch.no_grad():
    torch.save(model(ids).logits, sys.argv[1] + "/logits.pt")
print(model.config._attn_implementation)
"""


def test_a_saved_model_keeps_its_attention(processes: ForkServer, tmp_path: Path) -> None:
    model = build("llama")
    use_attention(model, "ls_attention", window=3, long_heads=1)
    model.save_pretrained(tmp_path)
    torch.save(tokens(1, 11), tmp_path / "ids.pt")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["tokenmix_attention"] == {"ls_attention": {"window": 3, "long_heads": 1}}
    loaded = processes.run(["-c", LOAD, str(tmp_path)])
    assert loaded.stdout.split() == ["ls_attention"], loaded.stderr
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), model(tokens(1, 11)).logits)
    failed = processes.run(["-c", LOAD.replace("import tokenmix.hf\n", ""), str(tmp_path)])
    assert failed.returncode != 0
    assert '`attn_implementation="ls_attention"` is not supported' in failed.stderr  # README quotes it


# ---------------------------------------------------------------------- what is refused


def test_a_pair_that_looks_ahead_is_refused() -> None:
    spec = make_spec("ls_attention", None, {"window": 3})
    function, mask_function = make_attention_function(spec), make_mask_function(spec)
    probe_attention(function, mask_function)

    def ahead(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> Any:
        return function(module, q, k.roll(-1, dims=2), v.roll(-1, dims=2), mask, **options)

    with pytest.raises(AttentionProbeError, match="attention: "):
        probe_attention(ahead, mask_function)
    with pytest.raises(AttentionProbeError, match="mask_function: expected one beside the attention function"):
        probe_attention(function, None)
    with pytest.raises(AttentionProbeError, match="padding"):  # the mask is dropped
        probe_attention(lambda m, q, k, v, mask, **o: function(m, q, k, v, None, **o), mask_function)


def test_without_its_mask_function_padding_would_leak() -> None:
    """The trap that registration avoids: transformers then hands every layer the mask None."""
    spec = make_spec("ls_attention", None, {"window": 128})
    AttentionInterface.register("no_mask_test", make_attention_function(spec))
    assert "no_mask_test" not in AttentionMaskInterface._global_mapping
    model = build("llama")
    ids, mask, _ = left_padded([9, 4])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=places).logits
        model.set_attn_implementation("no_mask_test")
        found = model(ids, attention_mask=mask, position_ids=places).logits
    assert (found - expected)[1, -4:].abs().max() > 0.1


SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
OTHERS = {
    "Bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=32, n_layer=1, n_head=4)),
    "WavLM": lambda: WavLMModel(WavLMConfig(**SIZES, conv_dim=(16,), conv_stride=(2,), conv_kernel=(3,))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_would_not_follow_are_refused(name: str) -> None:
    model = OTHERS[name]()
    before = model.config._attn_implementation
    with pytest.raises(ValueError, match=rf"model: {name}\w+ (does not go through|took the name|did not take)"):
        use_attention(model, "ls_attention")
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("name", "source", "options", "message"),
    [
        ("own_test", None, {}, "source: expected one of 'ls_attention', 'sliding_window', 'cells' or a list"),
        ("own_test", "ls_attention", {"windw": 3}, "options of ls_attention: expected window, long_heads, found windw"),
        ("own_test", "sliding_window", {"window": 0}, "window: expected a positive integer, found 0"),
        ("own_test", [(0.5, None), (0.4, 3)], {}, "groups: expected shares that sum to 1"),
        ("own_test", [(1, {"rows": 3})], {}, "rule: expected None, a window or"),
        ("sdpa", "sliding_window", {}, "name: expected one that is free, found 'sdpa'"),
        ("ls_attention", "sliding_window", {}, "'ls_attention' is registered with other options"),
        ("own|test", "sliding_window", {}, "name: expected a word"),
    ],
)
def test_mistakes(name: str, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message.replace("|", r"\|")):
        register_attention(name, source, **options)


def test_a_mistake_leaves_the_model_as_it_was() -> None:
    model = build("llama")
    expected = logits_of(model, inputs_of("llama"))
    for name, options, message in (
        ("ls_attention", {"long_heads": 9}, "ls_attention: expected heads that sum"),
        ("ls_attention", {"windw": 9}, "options of ls_attention: expected window"),
        ("no_such", {}, "name: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            use_attention(model, name, **options)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(logits_of(model, inputs_of("llama")), expected)
    with pytest.raises(TypeError, match="model: expected a transformers PreTrainedModel, found Linear"):
        use_attention(nn.Linear(2, 2), "ls_attention")  # type: ignore[arg-type]  # the mistake
