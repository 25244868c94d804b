"""Caption sets on disk in their published layouts: rows, splits, pixels, and what is missing or damaged."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_cases import COLOURS, picture, stripes, write_coco, write_flickr8k
from PIL import Image

from tokenmix.data.pairs import PairData, load_pairs


def load(folder: Path, **options: Any) -> PairData:
    return load_pairs("image_captions", folder=folder, **options)


def place_of(name: str) -> str:
    return {0: "test", 1: "val"}.get(int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10, "train")


def splits(data: PairData) -> list[str]:
    """The split of each row."""
    found = ["none"] * len(data.captions)
    for name in ("train", "val", "test"):
        for i in getattr(data, name).tolist():
            found[i] = name
    return found


def test_flickr8k_has_splits_of_its_own(tmp_path: Path) -> None:
    data = load(write_flickr8k(tmp_path / "set"))
    assert data.captions == [f"Caption {j} of {i} ." for i in range(4) for j in range(5)]
    assert splits(data) == ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    assert data.image_ids.tolist() == [i for i in range(4) for _ in range(5)]
    assert "Flickr8k.token.txt" in data.source
    assert "4 pictures" in data.source
    for i, colour in enumerate(list(COLOURS)[:4]):
        assert np.abs(data.images[5 * i, :, 9, 9].numpy().astype(int) - COLOURS[colour]).max() < 10


def test_flickr8k_in_the_folders_of_its_archives(tmp_path: Path) -> None:
    write_flickr8k(tmp_path / "a")
    (tmp_path / "b/Flickr8k_text").mkdir(parents=True)
    for path in sorted((tmp_path / "a").glob("*.txt")):
        path.rename(tmp_path / "b/Flickr8k_text" / path.name)
    (tmp_path / "a/Flicker8k_Dataset").rename(tmp_path / "b/Flicker8k_Dataset")
    data = load(tmp_path / "b", captions_per_image=2)
    assert data.captions == [f"Caption {j} of {i} ." for i in range(4) for j in range(2)]
    assert splits(data) == ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def test_flickr30k_is_split_by_a_hash_of_names(tmp_path: Path) -> None:
    names = [f"{1000092795 + 7 * i}.jpg" for i in range(60)]
    lines = [f"{name}#{j}\tA  man , number {j} . " for name in names for j in range(2)]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines) + "\n")
    for name in names:
        picture(tmp_path / "flickr30k-images" / name)
    data = load(tmp_path)
    assert data.captions[:2] == ["A man , number 0 .", "A man , number 1 ."]
    assert splits(data) == [place_of(name) for name in names for _ in range(2)]
    assert set(splits(data)) == {"train", "val", "test"}


COCO = {
    "train2017": {f"{i:012}.jpg": [f"train {i}.", " again \n", " "] for i in range(30)},
    "val2017": {"000000000139.jpg": ["A room ."], "000000000285.jpg": ["A bear .", "Bear"]},
}


@pytest.mark.parametrize("images", ["", "images"])
def test_coco_tests_on_its_val(tmp_path: Path, images: str) -> None:
    data = load(write_coco(tmp_path, COCO, images))
    expected = {}
    for name, captions in COCO["train2017"].items():
        part = "val" if place_of(name) == "val" else "train"
        expected |= {captions[0]: part}
    found = dict(zip(data.captions, splits(data), strict=True))
    assert {caption: found[caption] for caption in expected} == expected
    assert set(expected.values()) == {"train", "val"}
    assert found["A room ."] == found["A bear ."] == found["Bear"] == "test"
    assert len(data.captions) == 63  # blank ones are left out
    assert data.captions.count("again") == 30


def test_coco_of_one_part_or_several_years(tmp_path: Path) -> None:
    names = {f"{i:012}.jpg": [f"number {i}"] for i in range(30)}
    data = load(write_coco(tmp_path, {"val2017": names}))
    numbers = [int(caption.split()[1]) for caption in data.captions]
    assert splits(data) == [place_of(f"{i:012}.jpg") for i in numbers]
    write_coco(tmp_path, {"val2014": {"COCO_val2014_000000000042.jpg": ["older"]}})
    with pytest.raises(ValueError, match=r"year: expected one of 2014, 2017 in .*, found None"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"year: expected one of 2014, 2017 in .*, found 2015"):
        load(tmp_path, year=2015)
    assert load(tmp_path, year=2014).captions == ["older"]
    assert len(load(tmp_path, year=2017).captions) == 30


def test_image_folder_with_a_list_for_each_split(tmp_path: Path) -> None:
    for part, kind in (("train", "jsonl"), ("validation", "csv"), ("test", "jsonl")):
        rows = [{"file_name": f"{part}{i}.png", "text": f"{part}, picture {i}"} for i in range(3)]
        for row in rows:
            picture(tmp_path / part / row["file_name"])
        with (tmp_path / part / f"metadata.{kind}").open("w", newline="") as file:
            if kind == "jsonl":
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            else:
                writer = csv.DictWriter(file, ["file_name", "text"])
                writer.writeheader()
                writer.writerows(rows)
    data = load(tmp_path)
    found = dict(zip(data.captions, splits(data), strict=True))
    parts = {"train": "train", "validation": "val", "test": "test"}
    assert found == {f"{part}, picture {i}": name for part, name in parts.items() for i in range(3)}


def test_image_folder_with_one_list(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": f"deep/{i}.png", "said": f"picture {i}", "text": "no"} for i in range(30)
    ]
    rows[3]["said"] = ["picture 3", "a second\u2028one", ""]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    for i in range(30):
        picture(tmp_path / f"deep/{i}.png")
    data = load(tmp_path, column="said")
    assert data.captions[:5] == ["picture 0", "picture 1", "picture 2", "picture 3", "a second one"]
    assert splits(data) == [place_of(f"deep/{i}.png") for i in [*range(4), 3, *range(4, 30)]]
    assert load(tmp_path).captions == ["no"] * 30


def test_image_folder_of_train_and_test_takes_val_from_train(tmp_path: Path) -> None:
    names = [f"train/{i}.png" for i in range(30)] + [f"test/{i}.png" for i in range(3)] + ["extra/0.png"]
    lines = ["file_name,text", *(f'{name},"of, {name}"' for name in names)]
    (tmp_path / "metadata.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    for name in names:
        picture(tmp_path / name)
    data = load(tmp_path)
    trained = ["val" if place_of(name) == "val" else "train" for name in names[:30]]
    assert data.captions == [f"of, {name}" for name in names[:33]]
    assert splits(data) == [*trained, "test", "test", "test"]
    assert "val" in trained


def test_fewer_pictures(tmp_path: Path) -> None:
    root = write_coco(tmp_path, COCO)
    few, more = load(root, max_images=5), load(root, max_images=9, captions_per_image=1)
    pictures = [caption for caption in few.captions if caption != "again"]
    assert len({caption for caption in pictures if caption.startswith("train")}) <= 5
    assert "5 pictures" in few.source
    assert len(more.captions) == 9
    assert {caption for caption in pictures if caption.startswith("train")} <= set(more.captions)
    for option in ("max_images", "captions_per_image"):
        with pytest.raises(ValueError, match=rf"{option}: expected at least 1, or None, found 0"):
            load(root, **{option: 0})


def one(folder: Path, image: Image.Image, name: str = "one.png", **saved: Any) -> np.ndarray:
    """Pixels of a set of one picture, (3, 30, 30)."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **saved)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "one"}))
    return load(folder, size=30).images[0].numpy()


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    found = one(tmp_path / "wide", stripes(["red", "green", "blue"], 60, 30))  # green from 20 to 40, cut from 15 to 45
    for column, colour in ((0, "red"), (4, "red"), (5, "green"), (24, "green"), (25, "blue"), (29, "blue")):
        assert (found[:, :, column] == np.array(COLOURS[colour])[:, None]).all(), column
    turned = stripes(["red", "green", "blue"], 60, 30).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(one(tmp_path / "high", turned)[:, 0, 0], COLOURS["red"])
    assert np.array_equal(one(tmp_path / "high", turned)[:, 29, 0], COLOURS["blue"])


def test_shrinking_keeps_means(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    found = one(tmp_path, Image.fromarray(noise)).astype(float)
    blocks = noise.reshape(30, 10, 30, 10, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert found.mean() == pytest.approx(noise.mean(), abs=0.5)
    assert np.corrcoef(found.ravel(), blocks.ravel())[0, 1] > 0.8


def test_large_jpegs_are_the_same_as_their_pixels(tmp_path: Path) -> None:
    large = stripes(["red", "white", "blue", "black"], 600, 400).resize((1200, 800))
    as_png = one(tmp_path / "png", large).astype(float)
    as_jpg = one(tmp_path / "jpg", large, "one.jpg", quality=95).astype(float)
    assert np.abs(as_png - as_jpg).mean() < 4


def test_modes_and_orientation(tmp_path: Path) -> None:
    red = stripes(["red", "blue"], 40, 40)
    assert np.array_equal(one(tmp_path, red.convert("P"))[:, 10, 2], COLOURS["red"])
    assert np.array_equal(one(tmp_path, red.convert("RGBA"))[:, 10, 2], COLOURS["red"])
    assert np.abs(one(tmp_path, red.convert("CMYK"), "one.jpg", quality=95)[:, 10, 2] - (255.0, 0, 0)).max() < 12
    grey = one(tmp_path, red.convert("L"))
    assert (grey[0] == grey[1]).all()
    assert (one(tmp_path, stripes(["white", "black"], 40, 40).convert("1"))[:, 10, 2] == 255).all()
    clear = Image.new("LA", (40, 40), (0, 0))
    assert (one(tmp_path, clear) == 255).all()  # transparent is white
    tags = Image.Exif()
    tags[274] = 3  # upside down
    upside = one(tmp_path, red, "one.jpg", quality=95, exif=tags.tobytes())
    assert np.abs(upside[:, 10, 2].astype(int) - COLOURS["blue"]).max() < 12
    deep = Image.fromarray(np.full((40, 40), 4000, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"one.png \(more than 8 bits a pixel, mode I;16\)"):
        one(tmp_path, deep)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    root = write_flickr8k(tmp_path / "set") / "Flicker8k_Dataset"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "0_abc.jpg")
    (root / "0_abc.jpg").write_bytes((root / "0_abc.jpg").read_bytes()[:1500])
    (root / "2_abc.jpg").write_bytes(b"")
    (root / "3_abc.jpg").write_text("no picture")
    message = r"images: .*found 3 of 4: .*0_abc.jpg \(.*truncated.*\), .*2_abc.jpg \(.*\), .*3_abc.jpg \("
    with pytest.raises(ValueError, match=message):
        load(root.parent)
    (root / "1_abc.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected picture files, found nothing at 1 of 4: .*1_abc.jpg"):
        load(root.parent)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "jpg", "webp", "tiff"])
def test_cut_off_pictures_are_named(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    one(tmp_path, noise, f"one.{kind}")
    whole = (tmp_path / f"one.{kind}").read_bytes()
    for share in (0.02, 0.3, 0.6):
        (tmp_path / f"one.{kind}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=rf"found 1 of 1: .*one.{kind} \("):
            load(tmp_path)


def test_folders_without_a_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder: image_captions expected a folder .*found none given"):
        load_pairs("image_captions")
    with pytest.raises(FileNotFoundError, match=r"Flickr8k.token.txt .*; found nothing at .*/no"):
        load(tmp_path / "no")
    picture(tmp_path / "a.png")
    message = r"metadata.jsonl or metadata.csv .*captions_\*.json .*results_20130124.token in .*, found a.png"
    with pytest.raises(FileNotFoundError, match=message):
        load(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,\n")
    with pytest.raises(ValueError, match=r"folder: expected captions in .*, found none"):
        load(tmp_path)


LISTS = {
    "no JSON": ("metadata.jsonl", '{"file_name": "a.png", "text": "a"}\n{"file_name"', r"jsonl:2: expected JSON"),
    "no column": ("metadata.jsonl", '{"file_name": "a.png"}', r"jsonl:1: expected file_name and text, found file_name"),
    "no object": ("metadata.jsonl", '["a.png", "a"]', r"jsonl:1: expected file_name and text, found \['a.png', 'a'\]"),
    "a number": (
        "metadata.jsonl",
        '{"file_name": "a.png", "text": 3}',
        r"jsonl:1: expected a text as caption, found 3",
    ),
    "no header": ("metadata.csv", "a.png,a\nb.png,b\n", r"csv:2: expected file_name and text, found a.png, a"),
    "no UTF-8": ("metadata.csv", b"file_name,text\na.png,\xff\n", r"metadata.csv: expected UTF-8"),
    "no tab": ("Flickr8k.token.txt", "a.jpg#0 a caption\n", r"token.txt:1: expected <picture>#<number>, a tab"),
    "no mark": ("results_20130124.token", "a.jpg#0\ta\na.jpg\tb\n", r"token:2: expected <picture>#<number>, a tab"),
    "no images": (
        "annotations/captions_val2017.json",
        '{"annotations": []}',
        r"expected COCO's .*KeyError\('images'\)",
    ),
    "cut off": ("annotations/captions_val2017.json", '{"images": [', r"captions_val2017.json: expected COCO's"),
    "no image": (
        "annotations/captions_val2017.json",
        '{"images": [], "annotations": [{"image_id": 4, "caption": "a"}]}',
        r"expected COCO's images and annotations, found KeyError\(4\)",
    ),
}


@pytest.mark.parametrize("what", LISTS)
def test_damaged_lists_are_named(tmp_path: Path, what: str) -> None:
    name, content, message = LISTS[what]
    picture(tmp_path / "a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
