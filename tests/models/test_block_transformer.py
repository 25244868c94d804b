"""The Block Transformer's forward: its equations block by block, its receptive field, its loss, and any layout."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_cases import KINDS, build, one_by_one
from tiny_models import ATTENTION, VOCABULARY, assert_close, left_padded, tokens
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenmix.gather_scatter import GatherProcessScatter
from tokenmix.layout import Layout
from tokenmix.models import BlockTransformerConfig, BlockTransformerForCausalLM


def logits(model: BlockTransformerForCausalLM, ids: Tensor, **options: Any) -> Tensor:
    found: Tensor = model(ids, use_cache=False, **options).logits
    return found


@pytest.mark.parametrize("length", [1, 4, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_each_block_alone(kind: str, length: int) -> None:
    model, ids = build(kind), tokens(2, length)
    with torch.no_grad():
        found = logits(model, ids)
        for row, expected in zip(ids, found, strict=True):
            assert_close(one_by_one(model, row.tolist()), expected)
    first = model.config.block_length - 1  # what nothing predicts
    assert not found[:, :first].any()
    assert length <= first or found[:, first:].abs().amin(-1).amax() > 0


@pytest.mark.parametrize("kind", ["lookup", "cls", "mamba2_gam"])
def test_positions_say_where_the_first_block_begins(kind: str) -> None:
    model, ids = build(kind), tokens(1, 9)
    with torch.no_grad():
        results = [logits(model, ids, position_ids=torch.arange(p, p + 9)[None]) for p in range(5)]
        for p in range(4):
            assert_close(results[p][0], one_by_one(model, ids[0].tolist(), offset=p))
    assert torch.equal(results[0], results[4])
    assert not torch.allclose(results[0], results[1], atol=1e-2)


@pytest.mark.parametrize("kind", ["lookup", "cls", "two_embeddings", "summation", "hybrid", "three"])
def test_receptive_field_is_that_of_the_sheet(kind: str) -> None:
    """Token k of block b reaches the predictions of (b, j > k), b >= 1, and of all later blocks, and no others."""
    model, length = build(kind), 13
    size = model.config.block_length
    ids = tokens(1, length)
    with torch.no_grad():
        before = logits(model, ids)[0]
        for changed in range(length):
            other = ids.clone()
            other[0, changed] = (other[0, changed] + 7) % VOCABULARY
            differs = (logits(model, other)[0] != before).any(-1)  # differs[t]: the prediction of token t + 1
            block = changed // size
            expected = [
                target // size >= 1 and (target // size > block or (target // size == block and target > changed))
                for target in range(1, length + 1)
            ]
            assert differs.tolist() == expected, f"token {changed}"


def test_without_the_shift_it_is_not_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(), tokens(1, 12)
    other = ids.clone()
    other[0, 7] = (other[0, 7] + 1) % VOCABULARY

    def changed_before() -> bool:
        return bool((logits(model, ids) != logits(model, other))[0, :7].any())

    assert not changed_before()
    monkeypatch.setattr(model.model.blocks, "shift", 0)
    assert changed_before()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_anywhere(kind: str) -> None:
    """Rows padded on the left, on the right and in the middle equal the rows alone."""
    model = build(kind)
    ids, mask, rows = left_padded([11, 6, 1])
    with torch.no_grad():
        left = logits(model, ids, attention_mask=mask)
        right = logits(model, ids.flip(1), attention_mask=mask.flip(1))
        scattered = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0]).bool()
        middle = logits(model, ids[:1], attention_mask=scattered[None].long())
        assert_close(model(ids.flip(1), attention_mask=mask.flip(1)).logits, right)  # with the cache of every call
        for padded, real, full in ((ids, mask, left), (ids.flip(1), mask.flip(1), right)):
            assert_close(model(padded, attention_mask=real, logits_to_keep=1).logits, full[:, -1:])
            once = {"attention_mask": real[:1], "logits_to_keep": 1}
            assert_close(model(padded[:1], **once).logits, full[:1, -1:])
        for i, row in enumerate(rows):
            assert_close(left[i, 11 - row.shape[1] :], logits(model, row)[0])
            alone = ids[i].flip(0)[: row.shape[1]][None]
            assert_close(right[i, : row.shape[1]], logits(model, alone)[0])
        assert_close(middle[0, scattered], logits(model, ids[:1, scattered])[0])
    assert not left[1, :5].any()


@pytest.mark.parametrize("kind", ["lookup", "cls", "hybrid"])
def test_a_row_without_tokens(kind: str) -> None:
    """It gives zeros and leaves the others alone, with the cache that every call makes too."""
    model, ids = build(kind), tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1] = 0
    with torch.no_grad():
        for options in ({"use_cache": False}, {}):
            found = model(ids, attention_mask=mask, **options).logits
            assert_close(found[0], logits(model, ids[:1])[0])
            assert not found[1].any()


@pytest.mark.parametrize("kind", ["lookup", "cross_attention", "hybrid", "two_embeddings"])
def test_packed_documents_equal_documents_alone(kind: str) -> None:
    """Documents that end inside a block and at its end, told by segments and by places."""
    model, ids = build(kind), tokens(1, 21)
    lengths = [8, 3, 9, 1]
    segments = torch.arange(4).repeat_interleave(torch.tensor(lengths))[None]
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        alone = torch.cat([logits(model, part) for part in ids.split(lengths, dim=1)], dim=1)
        assert_close(logits(model, ids, segment_ids=segments), alone)
        assert_close(logits(model, ids, position_ids=places), alone)
        padded = torch.cat([ids[:, :10], ids[:, :2], ids[:, 10:]], dim=1)
        mask = torch.ones_like(padded)
        mask[:, 10:12] = 0
        spread = torch.cat([segments[:, :10], segments[:, 9:10].expand(-1, 2), segments[:, 10:]], dim=1)
        found = logits(model, padded, segment_ids=spread, attention_mask=mask)
        assert_close(found[mask.bool()], alone[0])


def test_a_fully_padded_leading_block_changes_nothing() -> None:
    model, ids = build(), tokens(2, 10)
    padded, mask = F.pad(ids, (4, 0), value=3), F.pad(torch.ones_like(ids), (4, 0))
    with torch.no_grad():
        assert_close(logits(model, padded, attention_mask=mask)[:, 4:], logits(model, ids), 1e-5)
        labels = padded.masked_fill(mask == 0, -100)
        padded_loss = model(padded, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(padded_loss, model(ids, labels=ids).loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lookup", "summation", "mamba2_gam", "three"])
def test_loss_is_cross_entropy_of_all_blocks_but_the_first(kind: str) -> None:
    model, ids = build(kind), tokens(3, 11)
    size = model.config.block_length
    with torch.no_grad():
        scores = torch.stack([one_by_one(model, row.tolist()) for row in ids])
        expected = F.cross_entropy(scores[:, size - 1 : -1].flatten(0, 1), ids[:, size:].flatten())
        torch.testing.assert_close(model(ids, labels=ids).loss, expected, atol=1e-4, rtol=1e-4)
        wrong = F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        assert abs(wrong - expected) > 1e-2


def test_padding_has_no_loss_and_an_end_token_has() -> None:
    """A pad target counts where the mask says that it is real: an end token with the number of padding."""
    model, ids = build(), tokens(2, 12)
    ids[:, 9:] = 5
    mask = torch.ones_like(ids)
    mask[:, 10:] = 0
    with torch.no_grad():
        scores = logits(model, ids)
        expected = F.cross_entropy(scores[:, 3:9].flatten(0, 1), ids[:, 4:10].flatten())
        found = model(ids, attention_mask=mask, labels=ids).loss
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # of two accumulated forwards with as many labels each, as Trainer counts them: after the first of a row
        half = model(ids, attention_mask=mask, labels=ids, num_items_in_batch=torch.tensor(2 * 22)).loss
        torch.testing.assert_close(half, expected / 2, atol=1e-5, rtol=1e-5)
        short = model(ids[:, :4], labels=ids[:, :4], num_items_in_batch=torch.tensor(6)).loss
        assert short == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    """In training mode, with random offsets, gradients reach every parameter, and are those of plain training."""
    model, ids = build(kind).train(), tokens(4, 12)
    torch.manual_seed(0)
    model(ids, labels=ids).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    idle = [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()]
    # a block of one token is predicted before any of its own is read
    assert idle == (["model.blocks.scatter.embed_tokens.weight"] if kind == "one" else [])
    model.gradient_checkpointing_enable()
    model.zero_grad()
    torch.manual_seed(0)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        if name not in idle:
            torch.testing.assert_close(parameter.grad, grads[name], atol=1e-5, rtol=1e-4)


def test_random_offsets_in_training_alone() -> None:
    model, ids = build(), tokens(32, 12)
    assert torch.equal(logits(model, ids), logits(model, ids))
    model.train()
    torch.manual_seed(0)
    drawn = logits(model, ids)
    starts = {int((row.abs().amax(-1) == 0).sum()) for row in drawn.detach()}
    assert starts == {0, 1, 2, 3}  # places that nothing predicts
    model.config.random_offset = False
    assert torch.equal(logits(model, ids), logits(model.eval(), ids))


def test_flops_of_the_block_decoder_are_those_of_its_blocks() -> None:
    """A fourth of the linear layers' cost of the same stack on tokens, and a sixteenth of attention's."""
    model, length = build(), 256
    stack = model.model.block_stack

    def cost(count: int) -> tuple[int, int]:
        """Of attention's products, which are batched, and of the linear layers'."""
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            stack(torch.randn(1, count, 32))
        counts = {str(name): n for name, n in counter.get_flop_counts()["Global"].items()}
        return counts["aten.bmm"], counts["aten.addmm"] + counts.get("aten.mm", 0)

    (few_scores, few), (scores, linear) = cost(length // 4), cost(length)
    assert linear == 4 * few
    assert scores == 16 * few_scores


def test_the_combinator_refuses_shifts() -> None:
    part = nn.Identity()
    with pytest.raises(ValueError, match="shift: expected an integer of at least 0, found -1"):
        GatherProcessScatter(part, part, part, shift=-1)
    with pytest.raises(TypeError, match="shift: expected an integer of at least 0, found True"):
        GatherProcessScatter(part, part, part, shift=True)


def test_embeddings_of_a_block_that_see_each_other_see_no_more() -> None:
    """A group of attention that is larger than a block's embeddings, or in the token decoder, would read the future."""
    group = {"mixer": "attention", "heads": 4, "group": 2}
    fitting = BlockTransformerConfig(hidden_size=32, block_embeddings=2, block_mixers={"a": group})
    assert fitting.build_block_stack().mixers[0].step == 2
    plain = BlockTransformerConfig(hidden_size=32, block_embeddings=2, block_mixers={"a": "attention"})
    assert plain.build_block_stack().mixers[0].step == 2
    for options in (
        {"block_mixers": {"a": group}},
        {"token_mixers": {"a": group}},
        {"block_embeddings": 2, "block_mixers": {"a": {**group, "group": 4}}},
    ):
        with pytest.raises(ValueError, match=r"_mixers: expected causal mixers, found 'a': .* reads the future"):
            BlockTransformerConfig(hidden_size=32, **options)


def test_feed_forward_by_letter() -> None:
    """Of both decoders, whose letters may differ: Mamba-2 without one, attention with one."""
    mixers = {"block_mixers": {"m": {"mixer": "mamba2", "head_dim": 16}}, "block_pattern": "m"}
    config = BlockTransformerConfig(hidden_size=32, **mixers, feed_forward={"m": None, "a": "gelu"})
    model = BlockTransformerForCausalLM(config)
    assert model.model.block_stack.layers[0].feed_forward is None
    assert type(model.model.token_decoder.stack.layers[0].feed_forward).__name__ == "GELU"


REFUSALS: list[tuple[str, dict[str, Any]]] = [
    ("block_length: expected a positive integer, found 0", {"block_length": 0}),
    (r"token_mixers: expected causal mixers, found 'a': .* reads the future",
     {"token_mixers": {"a": {**ATTENTION, "causal": False}}}),
    (r"block_mixers: expected causal mixers, found 'a': .* reads the future",
     {"block_mixers": {"a": {**ATTENTION, "causal": False}}}),
    (r"block_pattern: expected letters of mixers \['a'\], found \['x'\] in 'ax'", {"block_pattern": "ax"}),
    (r"token_pattern: expected letters of mixers \['a'\], found \['q'\]", {"token_pattern": "q"}),
    (r"block_mixers: \['b'\] named but not used", {"block_mixers": {"a": ATTENTION, "b": ATTENTION}}),
    ("mixer: unknown name 'mamba3'; did you mean", {"block_mixers": {"a": {"mixer": "mamba3"}}}),
    ("embedder: expected one of .*, found 'conv'", {"embedder": "conv"}),
    ("token_decoder: expected one of .*, found 'sum'", {"token_decoder": "sum"}),
    ("block_embeddings: expected a divisor of block_length=4, found 3", {"block_embeddings": 3}),
    ("hidden_size: expected a multiple of .* 5 for embedder='lookup', found 32", {"block_length": 5}),
    ("cls_tokens: expected a divisor of .*=32, found 3", {"embedder": "cls", "cls_tokens": 3}),
    ("cls_heads: expected a divisor of .*=32, found 5", {"embedder": "cls", "cls_heads": 5}),
    ("cross_heads: expected a divisor of token_hidden_size=32, found 7",
     {"token_decoder": "cross_attention", "cross_heads": 7}),
    ("num_token_layers: expected a positive integer, found 0", {"num_token_layers": 0}),
    ("token_intermediate_size: expected a positive integer, found 0", {"token_intermediate_size": 0}),
    ("token_mixers: heads: expected a divisor of dim=32, found 7",
     {"token_mixers": {"a": {"mixer": "attention", "heads": 7}}}),
    (r"block_mixers: expected \{letter: \{'mixer': name\}\}, found 'mamba2'", {"block_mixers": "mamba2"}),
    ("num_hidden_layers: expected num_block_layers and num_token_layers", {"num_hidden_layers": 4}),
    (r"feed_forward: expected letters of mixers \['a'\], found \['x'\]", {"feed_forward": {"x": "gelu"}}),
    ("expansion: expected .* 4 for token_decoder='summation', found 3",
     {"token_decoder": "summation", "expansion": 3}),
    ("block_lenght: not a field of BlockTransformerConfig; did you mean 'block_length'", {"block_lenght": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "options"), REFUSALS)
def test_refused_configurations(message: str, options: dict[str, Any]) -> None:
    settings = {"hidden_size": 32, "block_mixers": {"a": ATTENTION}, "token_mixers": {"a": ATTENTION}}
    with pytest.raises((ValueError, TypeError), match=message):
        BlockTransformerConfig(**{**settings, **options})


def test_refused_inputs() -> None:
    model, ids = build(max_position_embeddings=12), tokens(2, 13)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("at most max_position_embeddings=12 tokens a document, found 13", {"input_ids": ids}),
        ("input_ids: expected 0 to vocab_size - 1 = 60", {"input_ids": ids[:, :5] + VOCABULARY}),
        ("logits_to_keep: expected 0 where labels",
         {"input_ids": ids[:, :5], "labels": ids[:, :5], "logits_to_keep": 1}),
        ("positions: expected places that go up by one",
         {"input_ids": ids[:, :3], "position_ids": torch.tensor([[0, 1, 3]] * 2), "attention_mask": torch.ones(2, 3)}),
        (r"input_ids: expected at least one row and one token, found \(2, 0\)", {"input_ids": ids[:, :0]}),
        (r"input_ids: expected at least one row and one token, found \(0, 3\)", {"input_ids": ids[:0, :3]}),
        ("atention_mask: not an argument", {"input_ids": ids[:, :3], "atention_mask": torch.ones(2, 3)}),
        ("segment_ids: expected one document a row with a cache",
         {"input_ids": ids[:, :4], "segment_ids": torch.zeros(2, 4, dtype=torch.int64), "use_cache": True}),
    ]  # fmt: skip
    for message, options in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            model(**options)
    packed = torch.arange(2).repeat_interleave(torch.tensor([6, 7]))[None].expand(2, -1)
    assert model(ids, segment_ids=packed).logits.shape[1] == 13  # two short documents fit
    right = F.pad(torch.ones(2, 10, dtype=torch.int64), (0, 3))
    assert model(ids, attention_mask=right).logits.shape[1] == 13


def test_layout_is_taken_as_it_is() -> None:
    model, ids = build(), tokens(2, 9)
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    found = model.model(ids, layout=Layout(mask=mask), use_cache=False).last_hidden_state
    expected = model.model(ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="layout: expected it without"):
        model.model(ids, layout=Layout(), attention_mask=mask)
