"""Stand-ins for files of published sets under their real names, and pictures with known contents."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
MINI = SHARED / "tuxpaint_mini"
STAMPS = Path("/usr/share/tuxpaint/stamps")
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def needs(folder: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not folder.is_dir(), reason=f"no real data at {folder}")


needs_qtawesome = pytest.mark.skipif(
    importlib.util.find_spec("qtawesome") is None, reason="no real icons: pip install --no-deps qtawesome"
)


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Path:
    """A file of one colour; PNG or JPEG, as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).convert(mode).save(
        path, **({"quality": 95} if path.suffix == ".jpg" else {})
    )
    return path


def stripes(colours: Sequence[str], width: int, height: int) -> Image.Image:
    """Columns of equal width, one of each colour."""
    row = [COLOURS[colours[x * len(colours) // width]] for x in range(width)]
    return Image.fromarray(np.array([row] * height, dtype=np.uint8))


def write_icons(folder: Path) -> Path:
    """Two fonts with lists of names as QtAwesome has them; two names have no glyph, and one no ink."""
    folder.mkdir(parents=True)
    maps = {
        "first-webfont": {"letter-a": "0x41", "heart_shape": "2665", "absent": "0xe999", "empty": "0x2800"},
        "second": {"letter-a": "61", "lock": "62", "lock-outline": "63", "gone": "f0001"},
    }
    for name, codes in maps.items():
        shutil.copy(FONTS / "DejaVuSans.ttf", folder / f"{name}-1.2.3.ttf")
        (folder / f"{name}-charmap-1.2.3.json").write_text(json.dumps(codes))
    return folder


def write_stamps(root: Path) -> Path:
    """Stamps as Debian has them: "box" with two languages, "one" in English, and some without captions or pictures."""
    stamps = {"toys/box": "A box.\nes.utf8=Una caja.\npt_BR.utf8=\nfr.utf8=Une  boîte\u2028.", "toys/more/one": "One."}
    for stamp, text in stamps.items():
        picture(root / f"{stamp}.png", "red", (40, 20))
        (root / f"{stamp}.txt").write_text(f"{text}\n", encoding="utf-8")
    picture(root / "toys/box_mirror.png")
    (root / "toys/drawn.svg").write_text("<svg/>")
    (root / "toys/drawn.txt").write_text("A drawing.\n")
    return root


def write_coco(root: Path, parts: Mapping[str, Mapping[str, Sequence[str]]], images: str = "") -> Path:
    """Captions by picture by part, such as {"train2017": {"000000000009.jpg": ["a", "b"]}}."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, pictures in parts.items():
        listed = [{"id": 7 * i + 3, "file_name": name, "height": 20, "width": 20} for i, name in enumerate(pictures)]
        notes = [
            {"image_id": image["id"], "id": 100 * image["id"] + j, "caption": caption}
            for image in reversed(listed)
            for j, caption in enumerate(pictures[str(image["file_name"])])
        ]
        content = {"info": {}, "licenses": [], "images": listed, "annotations": notes}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
        for name in pictures:
            picture(root / images / part / name)
    return root


def write_flickr8k(root: Path) -> Path:
    """Five pictures: two of train, one of dev, one of test, and one in no list; and captions of one that is nowhere."""
    names = [f"{i}_abc.jpg" for i in range(5)]
    lines = [f"{name}#{j}\tCaption {j} of {name[0]} ." for name in names for j in range(5)]
    lines += ["2258277193_586949ec62.jpg.1#0\tSome people on a beach ."]
    root.mkdir(parents=True)
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for kind, chosen in {"train": names[:2], "dev": names[2:3], "test": names[3:4]}.items():
        (root / f"Flickr_8k.{kind}Images.txt").write_text("\n".join(chosen) + "\n")
    for name, colour in zip(names, COLOURS, strict=True):
        picture(root / "Flicker8k_Dataset" / name, colour)
    return root
