"""FILIP's loss: CLIP's where each side has one token, an equation in loops where it has more, and twins."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss as clip_loss

from tokenmix.losses import LateInteraction, late_interaction, late_interaction_scores
from tokenmix.retrieval import retrieval


def pairs(rows=6, words=4, regions=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(rows, words, 8, generator=g, dtype=torch.float64)
    image = torch.randn(rows, regions, 8, generator=g, dtype=torch.float64)
    text_mask, image_mask = (torch.rand(rows, n, generator=g) < 0.6 for n in (words, regions))
    text_mask[:, words // 2], image_mask[:, regions // 2] = True, True
    return text, image, text_mask, image_mask


def loops(text, image, text_mask, image_mask, temperature, wrong=lambda i, j: i != j):
    """Minus the mean log chance of the right answer, one row after the other; wrong(i, j): is image j, for text i."""
    t2i, i2t = late_interaction_scores(text, image, text_mask, image_mask)
    total = 0.0
    for i in range(len(text)):
        images = [j for j in range(len(text)) if j == i or wrong(i, j)]
        texts = [j for j in range(len(text)) if j == i or wrong(j, i)]
        total += torch.logsumexp(torch.stack([t2i[i, j] / temperature for j in images]), 0) - t2i[i, i] / temperature
        total += torch.logsumexp(torch.stack([i2t[i, j] / temperature for j in texts]), 0) - i2t[i, i] / temperature
    return total / (2 * len(text))


def test_with_one_token_a_side_it_is_clips_loss():
    text, image, *_ = pairs(words=1, regions=1)
    logits = F.normalize(text[:, 0], dim=-1) @ F.normalize(image[:, 0], dim=-1).T / 0.07
    torch.testing.assert_close(late_interaction(text, image), clip_loss(logits), atol=1e-12, rtol=0)
    torch.testing.assert_close(LateInteraction()(text, image).double(), clip_loss(logits), atol=1e-5, rtol=0)
    # and where one token of many is real
    longer = F.pad(text, (0, 0, 2, 3), value=math.nan)
    mask = torch.arange(6).eq(2).expand(6, 6)
    torch.testing.assert_close(late_interaction(longer, image, mask), clip_loss(logits), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, torch.tensor(0.3)])
def test_loss_and_gradients_equal_the_equation(temperature):
    text, image, *masks = pairs()
    leaves = text.requires_grad_(), image.requires_grad_()
    found = late_interaction(text, image, *masks, temperature=temperature, chunk=5)
    expected = loops(text, image, *masks, temperature)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    for got, want in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_images_answer_with_their_own_scores():
    """The image's direction is i2t, not t2i turned round."""
    text, image, *masks = pairs()
    t2i, i2t = late_interaction_scores(text, image, *masks)
    turned = (clip_loss(t2i / 0.07) + clip_loss(t2i.T / 0.07)) / 2
    found = late_interaction(text, image, *masks)
    assert (found - turned).abs() > 1e-3
    own = torch.arange(6)
    right = (F.cross_entropy(t2i / 0.07, own) + F.cross_entropy(i2t / 0.07, own)) / 2
    torch.testing.assert_close(found, right, atol=1e-12, rtol=0)


def test_twins_are_no_wrong_answers():
    text, image, *masks = pairs()
    groups = torch.tensor([7, -1, 7, 3, 3, 3])
    same = groups[:, None] == groups
    expected = loops(text, image, *masks, 0.07, wrong=lambda i, j: groups[i] != groups[j])
    torch.testing.assert_close(late_interaction(text, image, *masks, groups=groups), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(late_interaction(text, image, *masks, same=same), expected, atol=1e-12, rtol=0)
    same = same & ~torch.eye(6, dtype=torch.bool)  # the right answer stays, whatever is told of it
    torch.testing.assert_close(late_interaction(text, image, *masks, same=same), expected, atol=1e-12, rtol=0)
    assert (late_interaction(text, image, *masks) - expected).abs() > 1e-3


def test_a_one_sided_twin_is_told_for_the_right_side():
    text, image, *masks = pairs()
    same = torch.zeros(6, 6, dtype=torch.bool)
    same[1, 4] = True  # image 4 also fits text 1; image 1 does not fit text 4
    expected = loops(text, image, *masks, 0.07, wrong=lambda i, j: i != j and not same[i, j])
    torch.testing.assert_close(late_interaction(text, image, *masks, same=same), expected, atol=1e-12, rtol=0)
    assert (late_interaction(text, image, *masks, same=same.T) - expected).abs() > 1e-6


def test_one_pair_or_only_twins_have_nothing_to_learn():
    text, image, *masks = pairs()
    assert late_interaction(text[:1], image[:1]).item() == 0
    text.requires_grad_()
    loss = late_interaction(text, image, *masks, groups=torch.zeros(6, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, text)[0].eq(0).all()


def test_swapping_the_sides_changes_nothing():
    text, image, text_mask, image_mask = pairs()
    a = late_interaction(text, image, text_mask, image_mask)
    torch.testing.assert_close(a, late_interaction(image, text, image_mask, text_mask), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_is_float32(dtype):
    text, image, *masks = pairs()
    text, image = text.to(dtype).requires_grad_(), image.to(dtype)
    loss = LateInteraction().to(dtype)
    found = loss(text, image, *masks)
    assert found.dtype == torch.float32
    found.backward()
    assert text.grad.dtype == loss.log_temperature.grad.dtype == dtype
    tau = loss.log_temperature.detach().double().exp()
    expected = loops(text.detach().double(), image.double(), *masks, tau)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_temperature_is_learned_and_starts_as_clips():
    text, image, *masks = pairs()
    loss = LateInteraction()
    assert [name for name, _ in loss.named_parameters()] == ["log_temperature"]
    assert loss.temperature().item() == pytest.approx(0.07)
    loss(text, image, *masks).backward()
    step = 1e-6
    near = [late_interaction(text, image, *masks, temperature=0.07 * math.exp(d)) for d in (step, -step)]
    assert loss.log_temperature.grad.item() == pytest.approx((near[0] - near[1]).item() / (2 * step), rel=1e-4)


def test_the_scale_stops_at_a_hundred_and_comes_back():
    """A clamp of the result would have no gradient there, and never come back."""
    text, image, *masks = pairs()
    loss = LateInteraction()
    with torch.no_grad():
        loss.log_temperature.fill_(math.log(0.0001))
    found = loss(text, image, *masks)
    torch.testing.assert_close(found, late_interaction(text, image, *masks, temperature=0.01), atol=1e-4, rtol=1e-5)
    found.backward()
    assert loss.log_temperature.grad.item() < 0  # pairs do not match: a higher temperature is better
    torch.optim.SGD(loss.parameters(), lr=0.01).step()
    assert loss.temperature().item() > 0.01


def test_the_module_is_saved_and_copied():
    text, image, *masks = pairs()
    loss = LateInteraction(temperature=0.2)
    again = LateInteraction()
    again.load_state_dict(loss.state_dict())
    for other in (again, copy.deepcopy(loss)):
        assert torch.equal(other(text, image, *masks), loss(text, image, *masks))
    assert repr(loss) == "LateInteraction(max_scale=100.0, gather=False)"


def test_gathering_without_other_processes_changes_nothing():
    text, image, *masks = pairs()
    groups = torch.tensor([0, 0, 1, 2, 3, 4])
    plain = late_interaction(text, image, *masks, groups=groups)
    assert torch.equal(late_interaction(text, image, *masks, groups=groups, gather=True), plain)


def test_training_finds_pairs_that_share_tokens():
    """Two random linear towers; each caption names the regions of its picture, with padding that must not help."""
    g = torch.Generator().manual_seed(0)
    names, looks = torch.randn(12, 16, generator=g), torch.randn(12, 16, generator=g)
    things = torch.stack([torch.randperm(12, generator=g)[:3] for _ in range(64)])
    text = names[things[:, torch.randperm(3, generator=g)]]
    image = torch.cat([looks[things], torch.randn(64, 2, 16, generator=g)], 1)
    text = F.pad(text, (0, 0, 0, 2), value=math.nan)
    text_mask = torch.arange(5).lt(3).expand(64, 5)
    twins = torch.unique(things.sort(1).values, dim=0, return_inverse=True)[1]
    torch.manual_seed(0)
    towers, loss = torch.nn.ModuleList([torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)]), LateInteraction()
    optimiser = torch.optim.Adam([*towers.parameters(), *loss.parameters()], lr=0.02)

    def tokens():
        clean = text.masked_fill(~text_mask[..., None], 0)
        return towers[0](clean).masked_fill(~text_mask[..., None], math.nan), towers[1](image)

    def score():
        with torch.no_grad():
            scores = late_interaction_scores(*tokens(), text_mask)
        return retrieval(*scores, k=[1], relevant=twins[:, None] == twins)

    before = score()
    for _ in range(120):
        optimiser.zero_grad()
        loss(*tokens(), text_mask, groups=twins).backward()
        optimiser.step()
    after = score()
    assert max(before.values()) < 0.2
    assert min(after.values()) > 0.95


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": torch.zeros(5, 5, 8)}, ValueError, "image: expected as many rows as text, 6, found 5"),
        ({"text": torch.zeros(6, 8)}, ValueError, r"text: expected shape \(B, length, d\)"),
        ({"image": torch.zeros(6, 5, 7)}, ValueError, r"image: expected shape .* found \(6, 5, 7\)"),
        ({"temperature": 0.0}, ValueError, "temperature: expected a number above 0, found 0.0"),
        ({"temperature": math.nan}, ValueError, "temperature: expected a number above 0, found nan"),
        ({"groups": torch.zeros(5).long()}, ValueError, r"groups: expected shape \(B,\) = \(6,\), found \(5,\)"),
        ({"groups": torch.zeros(6)}, TypeError, "groups: expected integer, found torch.float32"),
        ({"same": torch.zeros(6, 5).bool()}, ValueError, r"same: expected shape \(B, B\) = \(6, 6\), found \(6, 5\)"),
        ({"same": torch.zeros(6, 6)}, TypeError, "same: expected bool, found torch.float32"),
        ({"same": torch.zeros(6, 6).bool(), "groups": torch.zeros(6).long()}, ValueError, "same: expected None beside"),
        ({"same": torch.zeros(6, 6).bool(), "gather": True}, ValueError, "same: expected groups instead with gather"),
    ],
)
def test_mistakes_are_named(change, error, message):
    text, image, *_ = pairs()
    with pytest.raises(error, match=message):
        late_interaction(**{"text": text, "image": image, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.001}, "temperature: expected at least 1 / max_scale = 0.01, found 0.001"),
        ({"temperature": math.inf}, "temperature: expected at least"),
        ({"max_scale": 0.0}, "max_scale: expected a number above 0, found 0.0"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        LateInteraction(**change)
