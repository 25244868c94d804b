"""The baseline for pairs: against numpy's SVD and dense bags, on pixels that name words, and on real glyphs."""

import math

import numpy as np
import pytest
import torch

from tokenmix.training.pair_baselines import retrieve_by_pixels, words_of

SHAPES = ("cross", "bar", "ring", "dot")
PLACES = ("left", "right", "above", "below")


def pictures(rows: int, seed: int, size: int = 8):
    """A shape at a place, and a caption that names both: what a linear map can learn."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((len(SHAPES) + len(PLACES), size, size))
    images, captions = [], []
    for _ in range(rows):
        shape, place = random.integers(len(SHAPES)), random.integers(len(PLACES))
        picture = patterns[shape] + patterns[len(SHAPES) + place] + 0.05 * random.random((size, size))
        images.append(picture * 100)
        captions.append(f"A {SHAPES[shape]}, {PLACES[place]}")
    return torch.from_numpy(np.stack(images)).clamp(0, 255).to(torch.uint8)[:, None], captions


def naive(train, train_captions, test, test_captions, components, ridge):
    """(images, captions) cosines by numpy: full SVD, dense bags, normal equations."""
    train, test = (x.numpy().reshape(len(x), -1).astype(float) / 255 for x in (train, test))
    mean = train.mean(0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:components].T
    words = sorted({word for text in [*train_captions, *test_captions] for word in words_of(text)})
    bags = [
        np.array([[w in words_of(text) for w in words] for text in c], float) for c in (train_captions, test_captions)
    ]
    worth = np.log((1 + len(train)) / (1 + bags[0].sum(0)))
    bags = [b * worth / np.maximum(np.linalg.norm(b * worth, axis=1, keepdims=True), 1e-12) for b in bags]
    z, centre = (train - mean) @ axes, bags[0].mean(0)
    weights = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (bags[0] - centre))
    guess, truth = (test - mean) @ axes @ weights, bags[1] - centre
    return (guess / np.linalg.norm(guess, axis=1, keepdims=True)) @ (
        truth / np.linalg.norm(truth, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize(("components", "ridge"), [(5, 1.0), (7, 30.0), (64, 0.01)])
def test_it_equals_the_plain_form(components, ridge, monkeypatch):
    seen = {}

    def keep(t2i, i2t, k, relevant):
        seen.setdefault("i2t", i2t)
        seen.setdefault("relevant", relevant)
        assert torch.equal(t2i, i2t.T)
        return {}

    monkeypatch.setattr("tokenmix.training.pair_baselines.retrieval", keep)
    train, test = pictures(60, 0), pictures(20, 1)
    test[1][3] = "An unknown ring"  # words that training does not know
    retrieve_by_pixels(*train, *test, components=components, ridge=ridge)
    expected = naive(*train, *test, components, ridge)
    np.testing.assert_allclose(seen["i2t"].numpy(), expected, atol=2e-5 if components < 64 else 1e-8)
    assert seen["relevant"].tolist() == [[a == b for b in test[1]] for a in test[1]]


def test_what_pixels_tell_is_found():
    train, test = pictures(200, 0), pictures(60, 1)
    found = retrieve_by_pixels(*train, *test)
    assert found.scores["i2t_R@1"] > 0.95
    assert found.scores["t2i_R@1"] > 0.95
    assert found.components == 64
    assert found.words == 9
    assert list(found.scores) == list(found.chance) == [f"{way}_R@{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
    again = retrieve_by_pixels(*train, *test)
    assert again == found


def test_captions_that_do_not_belong_give_chance():
    (train, captions), test = pictures(400, 0), pictures(100, 1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0)).tolist()
    found = retrieve_by_pixels(train, [captions[i] for i in order], *test, k=[1])
    assert abs(found.scores["i2t_R@1"] - found.chance["i2t_R@1"]) < 0.1
    assert found.chance["i2t_R@1"] == pytest.approx(1 / 16, abs=0.02)  # sixteen captions, each several times


def test_equal_bags_are_ties_that_are_not_won():
    """Two captions of the same words in another order: half the queries, not all, find the right one first."""
    dark, light = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    train, captions = torch.cat([dark, light] * 3), ["night x", "day y"] * 3
    test, asked = torch.cat([dark, dark, light, light]), ["night of x", "x of night", "day of y", "y of day"]
    found = retrieve_by_pixels(train, captions, test, asked, components=1, k=[1])
    assert found.scores == {"t2i_R@1": 0.5, "i2t_R@1": 0.5}
    right = torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1).bool()
    assert retrieve_by_pixels(train, captions, test, asked, components=1, k=[1], relevant=right).scores["i2t_R@1"] == 1


def test_bytes_and_floats_are_the_same():
    (train, captions), (test, asked) = pictures(50, 0), pictures(20, 1)
    a = retrieve_by_pixels(train, captions, test, asked)
    b = retrieve_by_pixels(train.double() / 255, captions, test.double() / 255, asked)
    assert a == b


def test_fewer_components_than_asked_for():
    (train, captions), test = pictures(50, 0), pictures(20, 1)
    assert retrieve_by_pixels(train[:3], captions[:3], *test).components == 2  # three pictures span two directions
    blank = torch.zeros_like(train)
    found = retrieve_by_pixels(blank, captions, *test)
    assert found.components == 0
    assert found.scores["i2t_R@1"] == pytest.approx(found.chance["i2t_R@1"])
    assert retrieve_by_pixels(train[:1], captions[:1], *test).components == 0


def test_random_numbers_of_others_are_left_alone():
    train, test = pictures(20, 0), pictures(5, 1)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    retrieve_by_pixels(*train, *test)
    assert torch.equal(torch.rand(4), expected)


def test_real_glyphs():
    """Two hundred Latin and Greek letters of a real font: far above chance, far from solved."""
    import unicodedata
    from pathlib import Path

    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, images, captions = ImageFont.truetype(str(path), 17), [], []
    for code in [
        *range(0x41, 0x5B),
        *range(0x61, 0x7B),
        *range(0xC0, 0x180),
        *range(0x391, 0x3CA),
        *range(0x410, 0x450),
    ]:
        if not unicodedata.category(chr(code)).startswith("L"):
            continue
        image = Image.new("L", (24, 24), 0)
        ImageDraw.Draw(image).text((4, 1), chr(code), fill=255, font=font)
        images.append(np.asarray(image))
        captions.append(unicodedata.name(chr(code)).lower())
    pixels = torch.from_numpy(np.stack(images))[:, None]
    train, test = [i for i in range(len(captions)) if i % 4], list(range(0, len(captions), 4))
    found = retrieve_by_pixels(pixels[train], [captions[i] for i in train], pixels[test], [captions[i] for i in test])
    assert found.scores["i2t_R@10"] > 3 * found.chance["i2t_R@10"]
    assert found.scores["i2t_R@1"] < 0.9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"components": 0}, ValueError, "components: expected a positive integer, found 0"),
        ({"ridge": 0.0}, ValueError, "ridge: expected a number above 0, found 0.0"),
        ({"ridge": math.nan}, ValueError, "ridge: expected a number above 0, found nan"),
        ({"train_captions": ["a"]}, ValueError, "train_captions: expected one for each of 4 images, found 1"),
        ({"test_captions": ["a"] * 5}, ValueError, "test_captions: expected one for each of 2 images, found 5"),
        ({"train_images": torch.zeros(4, 8, 8)}, ValueError, r"train_images: expected shape \(N, C, H, W\)"),
        (
            {"train_images": torch.zeros(4, 1, 8, 8).long()},
            TypeError,
            "train_images: expected a tensor of torch.uint8 or",
        ),
        ({"test_images": torch.zeros(2, 3, 8, 8)}, ValueError, r"test_images: .* \(1, 8, 8\), found \(3, 8, 8\)"),
        ({"test_images": torch.zeros(0, 1, 8, 8)}, ValueError, r"test_images: .* without empty axes"),
        ({"relevant": torch.ones(3, 2).bool()}, ValueError, "relevant: expected shape"),
        ({"k": (0,)}, ValueError, "k: expected integers of at least 1"),
    ],
)
def test_mistakes_are_named(change, error, message):
    given = {
        "train_images": torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        "train_captions": ["a b", "b c", "c d", "d a"],
        "test_images": torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        "test_captions": ["a", "b"],
        **change,
    }
    with pytest.raises(error, match=message):
        retrieve_by_pixels(**given)
