"""The loop of `tokenmix.models.generate`: the tokens of transformers' `generate`."""

from typing import Any

import pytest
import torch
from tiny_models import STACKS, VOCABULARY, build, left_padded, tokens
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.models import MixerForCausalLM, MixerForMaskedLM, generate
from tokenmix.state import MixerState

SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "defaults": {},
    "all": {"temperature": 1.7, "top_k": 20, "top_p": 0.8},
}


def theirs(model: MixerForCausalLM, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    found: Tensor = model.generate(ids, attention_mask=mask, **{"pad_token_id": 0, **options})
    return found


@pytest.mark.parametrize("position", ["none", "learned"])
@pytest.mark.parametrize("name", STACKS)
def test_same_tokens_as_theirs(name: str, position: str) -> None:
    """Unequal prompts with junk under the padding, and a window that wraps round several times."""
    model = build(name, position=position, max_position_embeddings=40 if position == "learned" else None)
    ids, mask, rows = left_padded([9, 4, 1])
    found = generate(model, ids, mask, max_new_tokens=20)
    assert found.dtype == torch.int64
    assert torch.equal(found, theirs(model, ids, mask, max_new_tokens=20))
    assert len(found[:, 9:].unique()) > 3  # no loop of one token, which mistakes could leave alone
    for i, row in enumerate(rows):
        assert torch.equal(generate(model, row, max_new_tokens=20)[0, row.shape[1] :], found[i, 9:])


@pytest.mark.parametrize("name", ["attention", "sliding_window", "hybrid"])
def test_many_tokens(name: str) -> None:
    model, ids = build(name), tokens(2, 3)
    assert torch.equal(generate(model, ids, max_new_tokens=90), theirs(model, ids, max_new_tokens=90))


@pytest.mark.parametrize("ends", [1, 3])
@pytest.mark.parametrize("name", ["ls_attention", "hybrid"])
def test_end_tokens(name: str, ends: int) -> None:
    """Rows end at different steps, go on with padding, and the batch stops with the last of them."""
    model = build(name)
    ids, mask, _ = left_padded([6, 3, 5])
    free = generate(model, ids, mask, max_new_tokens=30)[:, 6:]
    last = [int(free[i, 3 * i + 2]) for i in range(3)]
    eos: Any = last[0] if ends == 1 else last
    found = generate(model, ids, mask, max_new_tokens=30, eos_token_id=eos, pad_token_id=0)
    assert torch.equal(found, theirs(model, ids, mask, max_new_tokens=30, eos_token_id=eos))
    assert bool((found == 0).any())
    if ends == 3:
        assert found.shape[1] <= 6 + 9
    found = generate(model, ids, mask, max_new_tokens=30, eos_token_id=eos)
    assert torch.equal(found, theirs(model, ids, mask, max_new_tokens=30, eos_token_id=eos, pad_token_id=None))


@pytest.mark.parametrize("kind", SAMPLING)
def test_samples_after_the_same_seed(kind: str) -> None:
    model = build("hybrid")
    ids, mask, _ = left_padded([5, 3])
    options = {"max_new_tokens": 12, "do_sample": True, "eos_token_id": 7, **SAMPLING[kind]}
    results = []
    for seed, run in ((3, generate), (3, theirs), (4, generate)):
        torch.manual_seed(seed)
        results.append(run(model, ids, mask, pad_token_id=0, **options))
    assert torch.equal(results[0], results[1])
    assert results[0].tolist() != results[2].tolist()


def test_settings_of_the_model() -> None:
    model = build("gam", eos_token_id=5, pad_token_id=2)
    model.generation_config.update(do_sample=True, temperature=2.0, top_k=7)
    ids = tokens(2, 4)
    ids[0, :2] = 2  # padding, by its token alone
    runs = []
    for run in (lambda: generate(model, ids, max_new_tokens=15), lambda: model.generate(ids, max_new_tokens=15)):
        torch.manual_seed(0)
        runs.append(run())
    assert torch.equal(*runs)
    model.generation_config.repetition_penalty = 1.3
    with pytest.raises(ValueError, match=r"generation_config.repetition_penalty: expected None or 1.0, .* found 1.3"):
        generate(model, ids, max_new_tokens=1)


def test_streamer_gets_what_theirs_gets() -> None:
    class Kept:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def put(self, value: Tensor) -> None:
            self.got.append(value.tolist())

        def end(self) -> None:
            self.got.append("end")

    model, ids = build("mamba"), tokens(1, 4)
    ours, other = Kept(), Kept()
    generate(model, ids, max_new_tokens=5, streamer=ours)
    theirs(model, ids, max_new_tokens=5, streamer=other)
    assert ours.got == other.got
    assert ours.got[-1] == "end"


def test_nothing_is_left_behind() -> None:
    """Two calls are alike, training goes on, and no gradient is recorded."""
    model, ids = build("hybrid"), tokens(2, 4)
    first = generate(model, ids, max_new_tokens=6)
    assert not first.is_inference()
    model.train()
    model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.grad, alpha=-0.5)
    model.eval()
    assert torch.equal(generate(model, ids, max_new_tokens=6), theirs(model, ids, max_new_tokens=6))


@pytest.mark.parametrize("fault", ["overwrite", "advance", "append", "put"])
def test_planted_faults_change_tokens(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: a state that forgets is seen in the tokens."""
    name = {"overwrite": "sliding_window", "put": "mamba2"}.get(fault, "attention")
    model, ids = build(name), tokens(1, 6)
    expected = theirs(model, ids, max_new_tokens=20)
    right: Any = getattr(MixerState, fault)

    def wrong(self: MixerState, *args: Any) -> Any:
        if self.length < 8:
            return right(self, *args)
        if fault == "overwrite":
            return self.tensors[args[0]]
        if fault == "append":
            return right(self, args[0], 0 * args[1])
        return None

    monkeypatch.setattr(MixerState, fault, wrong)
    assert not torch.equal(generate(model, ids, max_new_tokens=20), expected)


def test_refusals() -> None:
    model, ids = build("gam"), tokens(2, 3)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "max_new_tokens: expected a positive integer, found 0", {"max_new_tokens": 0}),
        (ValueError, "temperature: expected a positive number, found 0", {"do_sample": True, "temperature": 0}),
        (ValueError, "top_k: expected an integer of at least 0, found -1", {"do_sample": True, "top_k": -1}),
        (ValueError, "top_p: expected a number above 0 and up to 1, found 2", {"do_sample": True, "top_p": 2}),
        (ValueError, "eos_token_id: expected 0 to vocab_size - 1 = 60, found 61", {"eos_token_id": VOCABULARY}),
        (ValueError, "pad_token_id: expected 0 to vocab_size - 1 = 60, found -5", {"pad_token_id": -5}),
        (ValueError, r"attention_mask: expected shape \(2, 3\), found \(2, 4\)", {"attention_mask": torch.ones(2, 4)}),
        (
            ValueError,
            "attention_mask: expected prompts padded on the left, .* found padding at the end of row 1",
            {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])},
        ),
        (ValueError, "input_ids: expected 0 to vocab_size - 1 = 60", {"input_ids": ids + VOCABULARY}),
        (TypeError, "input_ids: expected int64 tokens, found torch.float32", {"input_ids": ids.float()}),
        (TypeError, "model: expected a MixerForCausalLM.*, found Linear", {"model": torch.nn.Linear(1, 1)}),
        (TypeError, "model: .* found MixerForMaskedLM", {"model": build("bi_linear", MixerForMaskedLM)}),
    ]
    for error, message, changed in cases:
        with pytest.raises(error, match=message):
            generate(**{"model": model, "input_ids": ids, "max_new_tokens": 1, **changed})


@pytest.mark.parametrize("name", STACKS)
def test_continues_from_a_state(name: str) -> None:
    """A prompt in two parts gives what it gives in one, and the result can be gone on with."""
    model = build(name)
    prompt = torch.randint(1, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = generate(model, prompt, max_new_tokens=9)
    state = model.stack.init_state(2)
    with torch.no_grad():
        model.stack(model.model.embed(prompt[:, :4], Layout(), state), Layout(), state)
    first = generate(model, prompt[:, 4:], max_new_tokens=4, state=state)
    second = generate(model, first[:, -1:], max_new_tokens=5, state=state)
    assert torch.equal(torch.cat([prompt[:, :4], first, second[:, 1:]], 1), expected)


def test_a_state_of_other_rows() -> None:
    model = build("hybrid")
    with pytest.raises(ValueError, match="state: expected one for 1 rows, found 2"):
        generate(model, torch.ones(1, 2, dtype=torch.int64), max_new_tokens=1, state=model.stack.init_state(2))
