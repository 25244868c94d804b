"""Scores between token sequences: against loops in float64, with faults that others have made."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tokenmix.losses import late_interaction_scores
from tokenmix.losses.token_scores import HELD_PRODUCTS, _blocks, score_sides
from tokenmix.retrieval import recall


def sample(dtype=torch.float64, seed=0, shift=0.0):
    """5 texts of up to 4 words and 3 images of up to 6 regions, with padding left, right and inside."""
    g = torch.Generator().manual_seed(seed)
    text = (torch.randn(5, 4, 8, generator=g, dtype=torch.float64) + shift).to(dtype)
    image = (torch.randn(3, 6, 8, generator=g, dtype=torch.float64) - shift).to(dtype)
    text_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1]]).bool()
    image_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0]]).bool()
    return text, image, text_mask, image_mask


def loops(text, image, text_mask, image_mask):
    """The two scores, one number after the other, from real tokens alone."""
    t2i, i2t = torch.zeros(len(text), len(image)).double(), torch.zeros(len(image), len(text)).double()
    for i, words in enumerate(text.double()):
        for j, regions in enumerate(image.double()):
            real, there = words[text_mask[i]], regions[image_mask[j]]
            products = torch.stack([torch.stack([w @ r / (w.norm() * r.norm()) for r in there]) for w in real])
            t2i[i, j] = sum(row.max() for row in products) / len(real)
            i2t[j, i] = sum(column.max() for column in products.T) / len(there)
    return t2i, i2t


def with_gradients(function, text, image, *masks):
    text, image = text.clone().requires_grad_(), image.clone().requires_grad_()
    t2i, i2t = function(text, image, *masks)
    g = torch.Generator().manual_seed(1)
    loss = sum((s.double() * torch.randn(s.shape, generator=g, dtype=torch.float64)).sum() for s in (t2i, i2t))
    return [t2i.detach(), i2t.detach(), *torch.autograd.grad(loss, (text, image))]


def check(function, shift=0.0):
    for got, want in zip(*(with_gradients(f, *sample(shift=shift)) for f in (function, loops)), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 7, 100])
def test_scores_and_gradients_equal_loops(chunk):
    check(lambda *inputs: late_interaction_scores(*inputs, chunk=chunk))
    check(lambda *inputs: late_interaction_scores(*inputs, chunk=chunk), shift=2.0)


def products_of(text, image):
    return torch.einsum("itd,jrd->ijtr", F.normalize(text, dim=-1), F.normalize(image, dim=-1))


def masked_max(products, text_mask, image_mask):
    near = products.masked_fill(~image_mask[None, :, None], -math.inf).amax(3)  # (B, C, T)
    back = products.masked_fill(~text_mask[:, None, :, None], -math.inf).amax(2)  # (B, C, R)
    return near * text_mask[:, None], back * image_mask[None]


def right(text, image, text_mask, image_mask):
    near, back = masked_max(products_of(text, image), text_mask, image_mask)
    return near.sum(2) / text_mask.sum(1)[:, None], (back.sum(2) / image_mask.sum(1)).T


def image_divided_by_all(text, image, text_mask, image_mask):
    near, back = masked_max(products_of(text, image), text_mask, image_mask)
    return near.sum(2) / text_mask.sum(1)[:, None], back.mean(2).T


def image_mask_ignored(text, image, text_mask, image_mask):
    return right(text, image, text_mask, torch.ones_like(image_mask))


def text_mask_ignored(text, image, text_mask, image_mask):
    return right(text, image, torch.ones_like(text_mask), image_mask)


def one_direction_for_both(text, image, text_mask, image_mask):
    t2i, _ = right(text, image, text_mask, image_mask)
    return t2i, t2i.T


def maximum_over_padding(text, image, text_mask, image_mask):
    """Padding is set to 0, which wins over real tokens that are all far."""
    products = products_of(text * text_mask[..., None], image * image_mask[..., None])
    near, back = products.amax(3) * text_mask[:, None], products.amax(2) * image_mask[None]
    return near.sum(2) / text_mask.sum(1)[:, None], (back.sum(2) / image_mask.sum(1)).T


def not_scaled(text, image, text_mask, image_mask):
    near, back = masked_max(torch.einsum("itd,jrd->ijtr", text, image), text_mask, image_mask)
    return near.sum(2) / text_mask.sum(1)[:, None], (back.sum(2) / image_mask.sum(1)).T


def test_the_vectorised_reference_is_right_too():
    check(right)


@pytest.mark.parametrize(
    "fault",
    [
        image_divided_by_all,
        image_mask_ignored,
        text_mask_ignored,
        one_direction_for_both,
        maximum_over_padding,
        not_scaled,
    ],
)
def test_faults_are_found(fault):
    with pytest.raises(AssertionError):
        check(fault, shift=2.0)  # text and image far apart: similarities are below 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_float32_whatever_the_tokens_are(dtype):
    inputs = sample(dtype)
    found = with_gradients(late_interaction_scores, *inputs)
    assert [x.dtype for x in found] == [torch.float32, torch.float32, dtype, dtype]
    # the same tokens in float32, and in float64: no more than float32's rounding away
    wide = with_gradients(late_interaction_scores, *(x.float() for x in inputs[:2]), *inputs[2:])
    exact = loops(*inputs)
    for got, want in zip(found, wide, strict=True):
        torch.testing.assert_close(got, want.to(got.dtype), atol=0, rtol=0)
    for got, want in zip(found, exact, strict=False):
        torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)


def test_autocast_changes_nothing():
    inputs = sample(torch.bfloat16)
    plain = with_gradients(late_interaction_scores, *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = with_gradients(late_interaction_scores, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_sides_of_unlike_dtypes():
    text, image, *masks = sample()
    t2i, i2t = late_interaction_scores(text.float(), image, *masks)
    assert t2i.dtype == i2t.dtype == torch.float64
    torch.testing.assert_close(t2i, loops(text.float(), image, *masks)[0], atol=1e-7, rtol=0)
    assert late_interaction_scores(text.bfloat16(), image.float(), *masks)[0].dtype == torch.float32


def test_gradients_equal_finite_differences():
    text, image, text_mask, image_mask = sample()
    leaves = text[1:3, :, :2].clone().requires_grad_(), image[1:, 1:5, :2].clone().requires_grad_()
    masks = text_mask[1:3], image_mask[1:, 1:5]
    assert torch.autograd.gradcheck(lambda *tokens: late_interaction_scores(*tokens, *masks, chunk=2), leaves)


@pytest.mark.parametrize("frozen", ["text", "image"])
def test_one_side_may_be_frozen(frozen):
    text, image, *masks = sample()
    wanted = with_gradients(loops, text, image, *masks)[2 if frozen == "image" else 3]
    leaf = (text if frozen == "image" else image).requires_grad_()
    scores = late_interaction_scores(text, image, *masks)
    g = torch.Generator().manual_seed(1)
    loss = sum((s * torch.randn(s.shape, generator=g, dtype=torch.float64)).sum() for s in scores)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], wanted, atol=1e-12, rtol=0)


def test_padding_never_matters_not_even_nan():
    text, image, text_mask, image_mask = sample(torch.float32)
    clean = with_gradients(late_interaction_scores, text, image, text_mask, image_mask)
    for junk in (math.nan, math.inf, 1e30, 0.0):
        dirty = (text.masked_fill(~text_mask[..., None], junk), image.masked_fill(~image_mask[..., None], junk))
        found = with_gradients(late_interaction_scores, *dirty, text_mask, image_mask)
        assert all(torch.equal(a, b) for a, b in zip(clean, found, strict=True)), junk
        assert found[2][~text_mask].eq(0).all()
        assert found[3][~image_mask].eq(0).all()
    longer = [F.pad(x, (0, 0, 3, 2), value=math.nan) for x in (text, image)]
    masks = [F.pad(mask, (3, 2)) for mask in (text_mask, image_mask)]
    for a, b in zip(clean[:2], late_interaction_scores(*longer, *masks), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_nan_in_a_real_token_is_not_hidden():
    text, image, *masks = sample()
    text[0, 0, 0] = math.nan
    t2i, i2t = late_interaction_scores(text, image, *masks)
    assert t2i[0].isnan().all()
    assert i2t[:, 0].isnan().all()
    assert not t2i[1:].isnan().any()


def test_no_mask_is_a_mask_of_ones():
    text, image, text_mask, image_mask = sample()
    ones = late_interaction_scores(text, image, torch.ones_like(text_mask), torch.ones_like(image_mask))
    for a, b in zip(ones, late_interaction_scores(text, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-15, rtol=0)


def test_equal_tokens_share_nothing_but_the_gradient_is_whole():
    """A token that is there twice: the sum of both gradients is what one alone would get."""
    text, image, _, _ = sample()
    once = with_gradients(late_interaction_scores, text, image[:, :1])
    twice = with_gradients(late_interaction_scores, text, image[:, :1].repeat(1, 2, 1))
    torch.testing.assert_close(twice[2], once[2], atol=1e-12, rtol=0)
    torch.testing.assert_close(twice[3].sum(1), once[3].sum(1), atol=1e-12, rtol=0)


def test_aligned_tokens_are_found():
    g = torch.Generator().manual_seed(0)
    things = F.normalize(torch.randn(40, 5, 32, generator=g), dim=-1)
    order = torch.stack([torch.randperm(5, generator=g) for _ in range(40)])
    regions = things.gather(1, order[..., None].expand_as(things))
    image = torch.cat([regions, F.normalize(torch.randn(40, 7, 32, generator=g), dim=-1)], 1)  # and background
    image = image + 0.05 * torch.randn(image.shape, generator=g)
    nearest = products_of(things, image).diagonal().permute(2, 0, 1).argmax(2)
    assert torch.equal(nearest, order.argsort(1))
    t2i, i2t = late_interaction_scores(things, image)
    assert recall(t2i)["R@1"] == recall(i2t)["R@1"] == 1.0
    assert t2i.diagonal().mean() > 0.9  # every word is there
    assert i2t.diagonal().mean() < 0.8  # and much that is no word
    places = torch.autograd.grad(late_interaction_scores(things, image.requires_grad_())[0].diagonal().sum(), image)[0]
    assert places[:, :5].abs().sum(-1).gt(0).all()
    assert places[:, 5:].eq(0).all()


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.numel())
        return found


def largest(function, chunk):
    g = torch.Generator().manual_seed(0)
    text, image = (torch.randn(24, n, 4, generator=g).requires_grad_() for n in (20, 30))
    with Largest() as seen:
        t2i, i2t = function(text, image, chunk)
        (t2i.sum() + i2t.sum()).backward()
    return seen.size


def test_the_products_of_all_pairs_are_never_held():
    def held(text, image, chunk):
        return right(text, image, *(torch.ones(24, n, dtype=torch.bool) for n in (20, 30)))

    every = 24 * 24 * 20 * 30
    assert largest(held, None) == every  # the measure sees what it is to see
    blocked = largest(lambda text, image, chunk: late_interaction_scores(text, image, chunk=chunk), 16)
    assert blocked <= max(16 * 20 * 30, 24 * 24 * 30)  # a block, or the places of the maxima


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 3), (1, 9), (9, 1), (8, 8)])
@pytest.mark.parametrize("pairs", [1, 2, 3, 8, 10, 64, 1000])
def test_blocks_cover_each_pair_once(rows, columns, pairs):
    seen = torch.zeros(rows, columns, dtype=torch.int64)
    for i, j in _blocks(rows, columns, pairs):
        seen[i, j] += 1
        assert seen[i, j].numel() <= pairs
    assert seen.eq(1).all()


def test_sides_too_long_for_one_block():
    g = torch.Generator().manual_seed(0)
    text, image = torch.randn(1, 130, 2, generator=g), torch.randn(2, 33_000, 2, generator=g)  # more than int16 counts
    assert HELD_PRODUCTS < 130 * 33_000
    text.requires_grad_()
    image.requires_grad_()
    t2i, i2t = late_interaction_scores(text, image)
    assert t2i.min() > 0.99
    (t2i.sum() + i2t.sum()).backward()
    with torch.no_grad():
        again = late_interaction_scores(text, image)
    assert torch.equal(t2i, again[0])
    assert torch.equal(i2t, again[1])
    products = F.normalize(text[:1], dim=-1).detach()[0] @ F.normalize(image[1], dim=-1).detach().T
    torch.testing.assert_close(i2t[1, 0], products.amax(0).mean(), atol=1e-6, rtol=0)


def test_one_direction_alone():
    inputs = sample()
    (t2i,) = score_sides(*inputs, both=False)
    assert torch.equal(t2i, late_interaction_scores(*inputs)[0])
    text = inputs[0].clone().requires_grad_()
    alone = torch.autograd.grad(score_sides(text, *inputs[1:], both=False)[0].sum(), text)[0]
    beside = torch.autograd.grad(late_interaction_scores(text, *inputs[1:])[0].sum(), text)[0]
    torch.testing.assert_close(alone, beside, atol=1e-14, rtol=0)


def test_gradients_of_gradients_are_refused():
    text, image, *_ = sample()
    scores = late_interaction_scores(text.requires_grad_(), image)
    with pytest.raises(NotImplementedError, match="expected a first gradient, found create_graph=True"):
        torch.autograd.grad(scores[0].sum(), text, create_graph=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"text": torch.zeros(5, 8)},
            ValueError,
            r"text: expected shape \(B, T, d\) without empty axes, found \(5, 8\)",
        ),
        ({"text": torch.zeros(0, 4, 8)}, ValueError, r"text: expected .* without empty axes, found \(0, 4, 8\)"),
        ({"image": torch.zeros(3, 0, 8)}, ValueError, r"image: expected .* without empty axes, found \(3, 0, 8\)"),
        (
            {"image": torch.zeros(3, 6, 7)},
            ValueError,
            r"image: expected shape \(C, R, d\) = \(3, 6, 8\), found \(3, 6, 7\)",
        ),
        ({"text": torch.zeros(5, 4, 8).long()}, TypeError, "text: expected floating point, found torch.int64"),
        ({"image": [1.0]}, TypeError, "image: expected a tensor"),
        ({"text_mask": torch.ones(5, 4)}, TypeError, "text_mask: expected bool, found torch.float32"),
        (
            {"text_mask": torch.ones(5, 3).bool()},
            ValueError,
            r"text_mask: expected shape .* = \(5, 4\), found \(5, 3\)",
        ),
        (
            {"image_mask": torch.ones(5, 6).bool()},
            ValueError,
            r"image_mask: expected shape .* = \(3, 6\), found \(5, 6\)",
        ),
        ({"chunk": 0}, ValueError, "chunk: expected a positive integer, found 0"),
        ({"chunk": 2.0}, TypeError, "chunk: expected a positive integer, found 2.0"),
    ],
)
def test_mistakes_are_named(change, error, message):
    text, image, text_mask, image_mask = sample()
    given = {"text": text, "image": image, "text_mask": text_mask, "image_mask": image_mask, **change}
    with pytest.raises(error, match=message):
        late_interaction_scores(**given)


@pytest.mark.parametrize("side", ["text", "image"])
def test_a_row_without_a_real_token_is_named(side):
    text, image, text_mask, image_mask = sample()
    (text_mask if side == "text" else image_mask)[2] = False
    with pytest.raises(ValueError, match=f"{side}_mask: expected a real token in every row, found none in row 2"):
        late_interaction_scores(text, image, text_mask, image_mask)
