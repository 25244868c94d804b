"""Names and options of sources: mistakes are met with the nearest name, missing data with what would mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fork_server import ForkServer
from tokenmix.data.speech import SOURCES, load_speech

NEEDED = {
    "fsdd": "clone https://github.com/Jakobovski/free-spoken-digit-dataset",
    "manifest": r"manifest\.tsv",
    "librispeech": r"https://www\.openslr\.org/12",
    "speech_commands": r"speech_commands_v0\.02\.tar\.gz",
    "asterisk": "apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav",
    "tuxpaint": "apt-get install tuxpaint-stamps-default",
    "hub": "would mend it|hub expected a folder or a data set",
}


@pytest.mark.parametrize(("name", "nearest"), [("fsd", "fsdd"), ("Espeak", "espeak"), ("libri", "librispeech")])
def test_an_unknown_source(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"name: unknown source of speech '{name}'; did you mean .*'{nearest}'"):
        load_speech(name)


def test_a_source_that_resembles_none_lists_all() -> None:
    with pytest.raises(ValueError, match="known: ") as error:
        load_speech("qqqq")
    assert all(name in str(error.value) for name in SOURCES)


@pytest.mark.parametrize(
    ("source", "option", "nearest"),
    [
        ("fsdd", "protocl", "protocol"),
        ("asterisk", "language", "languages"),
        ("espeak", "hour", "hours"),
        ("librispeech", "trains", "train"),
        ("hub", "text", "text_column"),
    ],
)
def test_an_unknown_option(source: str, option: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{option}: not an option of the source '{source}'; .*'{nearest}'"):
        load_speech(source, tmp_path, **{option: 1})


def test_folder_is_no_option_by_another_way() -> None:
    with pytest.raises(TypeError, match="folder"):
        load_speech("fsdd", None, **{"folder": "x"})


@pytest.mark.parametrize("source", sorted(NEEDED))
def test_a_missing_folder_says_what_would_mend_it(source: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=NEEDED[source]) as error:
        load_speech(source, tmp_path / "nowhere")
    assert "nowhere" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_source_is_tried() -> None:
    assert set(NEEDED) | {"espeak"} == set(SOURCES)


def test_importing_data_imports_no_speech(processes: ForkServer) -> None:
    heavy = ("soundfile", "torchaudio", "jiwer", "datasets", "transformers", "espeakng_loader")
    code = (
        f"import sys; heavy = {heavy}\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in heavy]: del sys.modules[name]\n"
        "import tokenmix.data; print([name for name in heavy if name in sys.modules])"
    )
    found = processes.run(["-c", code])
    assert found.stdout.strip() == "[]", found.stderr
