"""Continuous tokens: noise, spans that are read whole, losses, and sampling."""

import math
from typing import Any

import pytest
import torch
from mixtures import ATTENTION, MAMBA, build, settings, tokens
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.models import generate
from tokenmix.models.mixture_of_transformers.features import add_noise, step_towards, velocity
from tokenmix.models.mixture_of_transformers.grammar import ModalityGrammar
from tokenmix.models.mixture_of_transformers.sampling import sample_features

TEXT, SIZE = 10, 3
PATCH = TEXT  # the id that stands for a patch
EXACT = {"rtol": 0, "atol": 1e-10}


def model(objective: str = "diffusion", **fields: Any) -> Any:
    image = {"input_size": SIZE, "objective": objective, "begin": 1, "end": 2, "length": 4}
    return build(modalities={"text": {"vocab_size": TEXT}, "image": image}, **fields)


def row() -> tuple[Tensor, Tensor]:
    """Text, a picture of 4 patches, text, one of 2, text; and features."""
    ids = torch.tensor([[5, 1, PATCH, PATCH, PATCH, PATCH, 2, 7, 1, PATCH, PATCH, 2]])
    return ids, torch.randn(1, 12, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def influence(net: Any, ids: Tensor, features: Tensor, place: int) -> list[int]:
    """Tokens whose output changes with the features of one."""
    changed = features.clone()
    changed[0, place] += 1
    before, after = (net.model(ids, features=f, use_cache=False).last_hidden_state for f in (features, changed))
    return [i for i in range(ids.shape[1]) if not torch.equal(before[0, i], after[0, i])]


@torch.no_grad()
def test_patches_see_their_own_picture_whole_and_nothing_else_ahead() -> None:
    net, (ids, features) = model(), row()
    assert influence(net, ids, features, 4) == list(range(2, 12))
    assert influence(net, ids, features, 10) == [9, 10, 11]
    assert influence(net, ids, features, 0) == []  # text reads no features
    causal = model("regression")
    assert influence(causal, ids, features, 4) == list(range(4, 12))


@torch.no_grad()
def test_a_cache_reads_spans_whole() -> None:
    net, (ids, features) = model(mixers=ATTENTION | MAMBA, pattern="am"), row()
    whole = net(ids, features=features).logits
    parts, cache = [], None
    for low, high in ((0, 2), (2, 6), (6, 7), (7, 11), (11, 12)):
        found = net(ids[:, low:high], features=features[:, low:high], past_key_values=cache, use_cache=True)
        cache = found.get("cache", found.get("past_key_values"))
        parts.append(found.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **EXACT)
    found = net(ids[:, :4], features=features[:, :4], use_cache=True)
    with pytest.raises(ValueError, match="expected chunks that hold each span whole"):
        net(ids[:, 4:], features=features[:, 4:], past_key_values=found.get("cache", found.get("past_key_values")))


@torch.no_grad()
@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_losses_equal_a_loop(objective: str) -> None:
    net, (ids, features) = model(objective), row()
    level = torch.full((1, 12), 0.3, dtype=torch.float64)
    noise = torch.randn(1, 12, SIZE, dtype=torch.float64)
    labels = ids.clone()
    labels[0, 9] = -100
    found = net(ids, features=features, labels=labels, noise_level=level, noise=noise)
    errors = []
    patches = [i for i in range(12) if ids[0, i] == PATCH and labels[0, i] != -100]
    signal, spread = math.cos(0.3 * math.pi / 2), math.sin(0.3 * math.pi / 2)
    read = features
    if objective == "diffusion":
        noisy = signal * features + spread * noise
        read = torch.where((ids == PATCH)[..., None], noisy, features)
    same = net(ids, features=read, noise_level=level)
    torch.testing.assert_close(same.logits, found.logits, **EXACT)
    for i in patches:
        if objective == "diffusion":
            target, guess = signal * noise[0, i] - spread * features[0, i], same.predictions["image"][0, i]
        else:
            target, guess = features[0, i], same.predictions["image"][0, i - 1]
        errors.append((guess - target).square().mean())
    expected = torch.stack(errors).mean()
    torch.testing.assert_close(found.modality_losses[1].double(), expected, rtol=1e-6, atol=0)
    assert found.modality_counts.tolist() == [5, len(patches)]  # text after the first token: 1, 2, 7, 1, 2
    whole = 5 * found.modality_losses[0].double() + 5.0 * len(patches) * expected  # five tokens of text
    torch.testing.assert_close(found.loss.double(), whole / (5 + len(patches)), rtol=1e-5, atol=0)


def test_velocity_takes_noise_to_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(2, 3, SIZE, dtype=torch.float64, generator=generator) for _ in range(2))
    for high, low in ((1.0, 0.0), (0.8, 0.25), (0.5, 0.5)):
        t, s = (torch.full((2, 3), v, dtype=torch.float64) for v in (high, low))
        stepped = step_towards(add_noise(x, e, t), velocity(x, e, t), t, s)
        torch.testing.assert_close(stepped, add_noise(x, e, s), rtol=0, atol=1e-12)
    unit = add_noise(torch.randn(1000, 1, 4), torch.randn(1000, 1, 4), torch.rand(1000, 1))
    assert abs(float(unit.var()) - 1) < 0.1


@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_samples_what_it_has_learned(objective: str) -> None:
    """Two prompts, two pictures: after training, sampling gives each prompt its own."""
    torch.manual_seed(0)
    net = model(objective, mixers=ATTENTION, pattern="aa", num_hidden_layers=2).float().train()
    pictures = torch.tensor([[[1.0, -1, 1]] * 4, [[-1.0, 1, 1]] * 4])
    ids = torch.tensor([[3, 1, *[PATCH] * 4, 2], [4, 1, *[PATCH] * 4, 2]])
    features = torch.zeros(2, 7, SIZE)
    features[:, 2:6] = pictures
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        net(ids.repeat(8, 1), features=features.repeat(8, 1, 1), labels=ids.repeat(8, 1)).loss.backward()
        optimiser.step()
    net.eval()
    generator = torch.Generator().manual_seed(0)
    found = sample_features(net, ids[:, :2], "image", 4, steps=16, generator=generator)
    assert found.shape == (2, 4, SIZE)
    assert (found - pictures).square().mean() < 0.1 < (found - pictures.flip(0)).square().mean()
    padded = torch.cat([torch.tensor([[5], [5]]), ids[:, :2]], 1)
    mask = torch.tensor([[0, 1, 1]] * 2)
    generator = torch.Generator().manual_seed(0)
    again = sample_features(net, padded, "image", 4, steps=16, attention_mask=mask, generator=generator)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-4)


def test_a_model_that_reads_features_generates_text() -> None:
    net, (ids, features) = model(), row()
    found = net.generate(ids, features=features, max_new_tokens=3, do_sample=False, pad_token_id=0)
    for i in range(12, 15):
        wide = torch.cat([features, features.new_zeros(1, i - 12, SIZE)], 1)
        assert net(found[:, :i], features=wide).logits[0, -1].argmax() == found[0, i]


def test_grammar_begins_and_ends_spans() -> None:
    image = {"vocab_size": 6, "begin": 1, "end": 2, "length": 3}
    speech = {"vocab_size": 4, "begin": 3, "end": 4}
    net = build(modalities={"text": {"vocab_size": TEXT}, "image": image, "speech": speech})
    prompt = torch.tensor([[5, 1], [5, 3], [5, 6]])
    torch.manual_seed(0)
    found = net.generate(prompt, max_new_tokens=40, do_sample=True, pad_token_id=0, logits_processor=[net.grammar])
    kinds = net.config.modality_of(found)
    for ids, kind in zip(found, kinds, strict=True):
        for i in range(1, len(ids)):
            if kind[i] == 1:
                run = 0
                while kind[i - run] == 1:
                    run += 1
                assert ids[i - run] == 1
                assert run <= 3
            if kind[i] == 2:
                assert kind[i - 1] == 2 or ids[i - 1] == 3
            if ids[i - 1] == 1:
                assert kind[i] == 1
            if kind[i - 1] == 2 and kind[i] != 2:
                assert ids[i] == 4
            if kind[i - 1] == 1 and kind[i] != 1:
                assert ids[i] == 2
                assert kind[i - 3 : i].tolist() == [1, 1, 1]
    assert {0, 1, 2} == set(kinds[:, 2:].flatten().tolist())


def test_grammar_draws_no_features() -> None:
    net, (ids, features) = model(), row()
    prompt, read = ids[:, :2], features[:, :2]  # ends in the token that begins a picture
    found = net.generate(
        prompt, features=read, max_new_tokens=6, do_sample=False, pad_token_id=0, logits_processor=[net.grammar]
    )
    assert found[0, 2] == 2
    assert PATCH not in found


@torch.no_grad()
@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_accumulated_losses_are_the_loss_of_all(objective: str) -> None:
    """Rows with other shares of patches, each in a forward of its own, with Trainer's count of all labels."""
    net = model(objective)
    ids = torch.tensor([[5, 1, PATCH, PATCH, PATCH, PATCH, 2, 7], [5, 6, 7, 1, PATCH, 2, 3, 4]])
    features, noise = (torch.randn(2, 8, SIZE, dtype=torch.float64) for _ in range(2))
    level = torch.full((2, 8), 0.4, dtype=torch.float64)
    kwargs = {"features": features, "noise": noise, "noise_level": level}
    whole = net(ids, labels=ids, **kwargs).loss
    count = int((ids[:, 1:] != -100).sum())
    parts = []
    for i in range(2):
        own = {name: value[i : i + 1] for name, value in kwargs.items()}
        parts.append(net(ids[i : i + 1], labels=ids[i : i + 1], num_items_in_batch=count, **own).loss)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=0)


@torch.no_grad()
def test_features_that_nobody_reads_change_nothing() -> None:
    net, (ids, features) = model(), row()
    level, noise = torch.full((1, 12), 0.3).double(), torch.randn(1, 12, SIZE).double()
    expected = net(ids, features=features, labels=ids, noise_level=level, noise=noise)
    wild = features.masked_fill((ids != PATCH)[..., None], torch.nan)
    found = net(ids, features=wild, labels=ids, noise_level=level, noise=noise)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.logits, expected.logits)


def test_a_batch_without_features_gives_them_zero_gradients() -> None:
    net, ids = model().train(), tokens(2, 6, vocabulary=TEXT)
    net(ids, labels=ids).loss.backward()
    for name, parameter in net.model.features.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name


@torch.no_grad()
def test_generation_without_a_cache_reads_the_same_features() -> None:
    net, (ids, features) = model("regression"), row()
    options = {"features": features, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    expected = net.generate(ids, **options)
    assert torch.equal(net.generate(ids, use_cache=False, **options), expected)
    blank = torch.zeros_like(features)
    assert net.generate(ids, **options | {"features": blank}).shape == expected.shape
    assert not torch.equal(net(ids, features=blank).logits, net(ids, features=features).logits)


def test_patches_without_features_are_refused() -> None:
    net, (ids, _) = model(), row()
    with pytest.raises(
        ValueError, match=r"features: expected shape \(B, L, F >= 3\) for the tokens of 'image', found N"
    ):
        net(ids)
    assert net(ids[:, :2]).logits.shape == (1, 2, 11)  # text alone reads none
    padding = torch.tensor([[0, 1, 1]])
    assert net(torch.tensor([[PATCH, 5, 7]]), attention_mask=padding).logits.isfinite().all()  # an id of padding


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_patch_that_is_drawn_has_no_features(use_cache: bool) -> None:
    """Its id may be drawn where no grammar forbids it; what follows is that of features of 0."""
    net, ids = model("regression"), torch.tensor([[5, 1]])
    first = {"prefix_allowed_tokens_fn": lambda _, row: [PATCH] if len(row) == 2 else list(range(PATCH))}
    found = net.generate(ids, max_new_tokens=4, use_cache=use_cache, do_sample=False, pad_token_id=0, **first)
    assert int(found[0, 2]) == PATCH
    with torch.no_grad():
        logits = net(found, features=torch.zeros(1, 6, SIZE, dtype=torch.float64)).logits
    assert found[0, 3:].tolist() == logits[0, 2:-1, :PATCH].argmax(-1).tolist()


def test_generation_without_bookkeeping_reads_patches_alike() -> None:
    """`tokenmix.models.generate` takes no features: a prompt's patches are refused, drawn ones have features of 0."""
    net, (ids, _) = model("regression"), row()
    with pytest.raises(ValueError, match=r"features: expected shape .* for the tokens of 'image', found None"):
        generate(net, ids, max_new_tokens=2, pad_token_id=0)
    with torch.no_grad():
        for parameter in net.model.features.parameters():
            parameter.normal_()  # so that features of 0 are not nothing
        state, drawn = net.init_state(1), torch.tensor([[5, 1, PATCH]])
        net.read_last(drawn[:, :2], Layout(), state)
        found = net.lm_head(net.read_last(drawn[:, 2:], Layout(), state))
        expected = net(drawn, features=torch.zeros(1, 3, SIZE, dtype=torch.float64)).logits[:, -1]
        torch.testing.assert_close(found, expected, **EXACT)
        state = net.init_state(1)
        net.read_last(drawn[:, :2], Layout(), state)
        found = net.lm_head(net.read_last(torch.tensor([[PATCH, 2, 7]]), Layout(), state))
        whole = torch.tensor([[5, 1, PATCH, 2, 7]])
        expected = net(whole, features=torch.zeros(1, 5, SIZE, dtype=torch.float64)).logits[:, -1]
        torch.testing.assert_close(found, expected, **EXACT)
        with pytest.raises(ValueError, match="features: expected shape"):
            net.read_last(torch.tensor([[1, PATCH]]), Layout(), state)


def test_grammar_never_draws_what_has_no_tokens() -> None:
    config = settings(modalities={"text": {"vocab_size": 3}, "image": {"input_size": 2, "objective": "regression"}})
    allowed = ModalityGrammar(config)(torch.tensor([[0, 1]]), torch.zeros(1, 4)) > -1
    assert allowed.tolist() == [[True, True, True, False]]


def test_labels_that_stand_where_they_are_predicted() -> None:
    net, ids = build(), tokens()
    aligned = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    expected, found = net(ids, labels=ids), net(ids, labels=ids.flip(1), shift_labels=aligned)
    torch.testing.assert_close(found.loss, expected.loss, **EXACT)
    assert torch.equal(found.modality_counts, expected.modality_counts)
    torch.testing.assert_close(found.modality_losses, expected.modality_losses, **EXACT)
    doubled = net(ids, labels=ids, shift_labels=aligned, num_items_in_batch=11)
    torch.testing.assert_close(doubled.loss, 2 * expected.loss, **EXACT)  # of 22 labels
    assert net(ids, shift_labels=aligned).loss is None  # as in transformers
    with pytest.raises(ValueError, match=r"shift_labels: expected shape \(2, 12\), found \(2, 3\)"):
        net(ids, labels=ids, shift_labels=ids[:, :3])
    net, (ids, features) = model(), row()
    with pytest.raises(ValueError, match="shift_labels: expected none with features"):
        net(ids, features=features, labels=ids, shift_labels=ids)


def test_refuses_features() -> None:
    net, (ids, features) = model(), row()
    with pytest.raises(ValueError, match=r"features: expected shape \(1, 12, 'F >= 3'\), found \(1, 12, 2\)"):
        net(ids, features=features[..., :2])
    with pytest.raises(ValueError, match="noise_level: expected shape"):
        net(ids, features=features, noise_level=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"noise: expected shape \(1, 12, 3\), found \(1, 12, 2\)"):
        net(ids, features=features, labels=ids, noise=features[..., :2])
    with pytest.raises(ValueError, match="attention_mask: expected prompts padded on the left"):
        sample_features(net, ids[:, :2], "image", 2, attention_mask=torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="name: expected one of"):
        sample_features(net, tokens(1, 3, vocabulary=TEXT), "text", 2)
    with pytest.raises(ValueError, match="count: expected a positive integer, found 0"):
        sample_features(net, tokens(1, 3, vocabulary=TEXT), "image", 0)
