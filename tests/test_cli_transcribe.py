"""`tokenmix transcribe`: text of real files and pipes, whole and streamed, and what it says about mistakes."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import Resample
from transformers import Wav2Vec2CTCTokenizer

from fork_server import ForkServer
from tokenmix.cli import main
from tokenmix.cli.transcribe_audio import Resampler
from tokenmix.data.speech import build_ctc_tokenizer, read_audio
from tokenmix.models import MixerForCTC, SambaASRConfig, SambaASRForConditionalGeneration, SpeechConfig, SpeechModel
from tokenmix.models.speech import build_processor
from tokenmix.models.speech.ctc_text import ctc_text
from tokenmix.models.speech.streaming import Transcriber

RATE = 8000
SMALL: dict[str, Any] = {"sampling_rate": RATE, "hidden_size": 32, "pad_token_id": 0}
MAMBA = {"m": {"mixer": "mamba", "state_size": 4}}
BOTH_WAYS = {"b": {"mixer": "bidirectional", "inner": MAMBA["m"]}}


def tokenizer() -> Wav2Vec2CTCTokenizer:
    return build_ctc_tokenizer(["the quick brown fox jumps over a lazy dog"])


def sound(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray[Any, Any]:
    t = np.arange(round(seconds * rate)) / rate
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(t)) * np.sin(3 * t)
    return (noise + 0.3 * np.sin(2 * np.pi * (200 + 150 * np.sin(2 * t)) * t)).astype(np.float32)


def save(model: Any, folder: Path) -> Path:
    """A model and its processor, whose symbols are all likely in some token."""
    audio = torch.from_numpy(sound(3))[None]
    model.eval().encoder.fit_normaliser([{"input_values": audio}])
    if isinstance(model, MixerForCTC):
        with torch.no_grad():
            logits = model(audio).logits[0]
            model.ctc_head.weight.div_(logits.std(0)[:, None])
            model.ctc_head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    model.save_pretrained(folder)
    build_processor(model.config, tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models: one causal, one that reads both ways, one with a decoder."""
    root, size = tmp_path_factory.mktemp("models"), len(tokenizer())
    torch.manual_seed(0)
    causal = SpeechConfig(vocab_size=size, causal=True, mixers=MAMBA, pattern="mm", **SMALL)
    both_ways = SpeechConfig(vocab_size=size, mixers=BOTH_WAYS, pattern="b", **SMALL)
    decoder = SambaASRConfig(
        vocab_size=size, mixers=BOTH_WAYS, num_hidden_layers=1, num_decoder_layers=1, max_target_length=30, **SMALL
    )
    return {
        "causal": save(MixerForCTC(causal), root / "causal"),
        "both_ways": save(MixerForCTC(both_ways), root / "both_ways"),
        "decoder": save(SambaASRForConditionalGeneration(decoder), root / "decoder"),
    }


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "speech.wav", sound(2.5), RATE, subtype="FLOAT")
    return tmp_path / "speech.wav"


def expected(folder: Path, samples: Any, beams: int = 1) -> str:
    return Transcriber(MixerForCTC.from_pretrained(folder).eval(), tokenizer(), beams=beams).transcribe(samples)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", ["", "--stream", "--stream --chunk-ms 37", "--stream --chunk-ms 1e5"])
def test_a_file_is_written_the_same_whole_and_in_any_chunks(
    options: str, beams: int, folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transcribe", str(wav), "--model", str(folders["causal"]), "--beams", str(beams), *options.split()]
    assert main(arguments) == 0
    text = expected(folders["causal"], sound(2.5), beams)
    assert len(set(text)) > 8
    printed = capsys.readouterr()
    assert printed.out == text + "\n"
    assert f"{wav}: 2.50 s of audio, " in printed.err
    assert " s of work, real-time factor " in printed.err
    assert " KiB of state" in printed.err


def test_json_lines_are_the_pieces_and_the_result(
    folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folders["causal"])
    assert main(["transcribe", str(wav), "--model", model, "--stream", "--json", "--chunk-ms", "500"]) == 0
    *pieces, result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(pieces) > 2
    assert [piece["seconds"] for piece in pieces] == sorted(piece["seconds"] for piece in pieces)
    assert pieces[0]["seconds"] in (0.5, 1.0)  # known before the end
    text = expected(folders["causal"], sound(2.5))
    assert "".join(piece["piece"] for piece in pieces) == result["text"] == text
    assert result["file"] == str(wav)
    assert result["audio_seconds"] == 2.5
    assert result["work_seconds"] > 0
    assert result["real_time_factor"] == result["work_seconds"] / 2.5
    transcriber = Transcriber(MixerForCTC.from_pretrained(model).eval(), tokenizer())
    transcriber.read(sound(2.5))
    assert result["state_bytes"] == transcriber.nbytes


def test_other_rates_and_channels(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stereo = np.stack([sound(2, 44100), sound(2, 44100, seed=1)], 1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44100, subtype="PCM_24")
    heard, _ = soundfile.read(tmp_path / "stereo.flac", dtype="float32")
    resampler = Resampler(44100, RATE)
    samples = torch.cat([resampler.read(heard.mean(1)), resampler.finish()])
    torch.testing.assert_close(samples, torch.from_numpy(read_audio(tmp_path / "stereo.flac", RATE)), rtol=0, atol=2e-6)
    outputs = []
    for options in ([], ["--stream"], ["--stream", "--chunk-ms", "3"]):
        assert main(["transcribe", str(tmp_path / "stereo.flac"), "--model", str(folders["causal"]), *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs == [expected(folders["causal"], samples) + "\n"] * 3


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 8000), (96000, 8000)])
@pytest.mark.parametrize("size", [1, 1000, 30011])
def test_resampling_in_chunks_is_that_of_the_whole(old: int, new: int, size: int) -> None:
    samples = torch.from_numpy(sound(size / old, old))
    whole = Resample(old, new)(samples)
    once = Resampler(old, new)
    result = torch.cat([once.read(samples), once.finish()])
    torch.testing.assert_close(result, whole, rtol=0, atol=2e-6)
    parts = Resampler(old, new)
    chunks = [parts.read(chunk) for chunk in samples.split(777)]
    assert torch.equal(torch.cat([*chunks, parts.read(samples[:0]), parts.finish()]), result)


def test_models_that_need_the_whole(folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = torch.from_numpy(sound(2.5))[None]
    both_ways = MixerForCTC.from_pretrained(folders["both_ways"]).eval()
    with torch.no_grad():
        logits = both_ways(audio).logits[0]
    for beams in (1, 3):
        assert main(["transcribe", str(wav), "--model", str(folders["both_ways"]), "--beams", str(beams)]) == 0
        printed = capsys.readouterr()
        assert printed.out == ctc_text(logits, tokenizer(), 0, beams) + "\n"
        assert "state" not in printed.err
    decoder = SambaASRForConditionalGeneration.from_pretrained(folders["decoder"]).eval()
    for beams in (1, 2):
        written = decoder.generate(audio, num_beams=beams, do_sample=False)[0]
        text = tokenizer().decode(written, skip_special_tokens=True, group_tokens=False).strip()
        assert main(["transcribe", str(wav), "--model", str(folders["decoder"]), "--beams", str(beams)]) == 0
        assert capsys.readouterr().out == text + "\n"
        assert len(text) > 2


def test_doubled_letters_of_a_decoder_stay_doubled(
    folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = torch.tensor([[1, *tokenizer().encode("jumpp  oover"), 2, 0]])
    monkeypatch.setattr(SambaASRForConditionalGeneration, "generate", lambda *_, **__: spoken)
    assert main(["transcribe", str(wav), "--model", str(folders["decoder"])]) == 0
    assert capsys.readouterr().out == "jumpp  oover\n"


@pytest.mark.parametrize(
    ("name", "found"),
    [("both_ways", "one that reads the future"), ("decoder", "a model with a decoder, which")],
)
def test_streams_of_models_that_need_the_whole_are_refused(
    name: str, found: str, folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(wav), "--model", str(folders[name]), "--stream"]) == 2
    printed = capsys.readouterr().err
    assert f"--stream: expected a causal MixerForCTC, found {found}" in printed
    assert "train a MixerForCTC with causal=True" in printed
    assert printed.count("\n") == 1


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    names = ("text.wav", "empty.wav", "none.wav", "nan.wav", "cut.wav", "loud.wav", "missing.wav", "folder")
    files = {name: tmp_path / name for name in names}
    files["text.wav"].write_text("this is no audio" * 100)
    files["empty.wav"].write_bytes(b"")
    soundfile.write(files["none.wav"], np.zeros(0, np.float32), RATE)
    samples = sound(1)
    samples[5000] = np.nan
    soundfile.write(files["nan.wav"], samples, RATE, subtype="FLOAT")
    soundfile.write(files["loud.wav"], 90 * sound(1), RATE, subtype="FLOAT")
    soundfile.write(files["cut.wav"], sound(1), RATE)
    files["cut.wav"].write_bytes(files["cut.wav"].read_bytes()[:9000])
    files["folder"].mkdir()
    return files


FOUND = {
    "text.wav": "text.wav: expected audio that soundfile reads, found Format not recognised",
    "empty.wav": "empty.wav: expected audio, found an empty file",
    "none.wav": "none.wav: expected samples, found none",
    "nan.wav": "nan.wav: expected numbers, found NaN or infinity at sample 5,000",
    "loud.wav": "loud.wav: expected samples between -1 and 1, found ",
    "cut.wav": "of 16,000 bytes of samples: the file is cut off",
    "missing.wav": "missing.wav: expected a file, found nothing there",
    "folder": "folder: expected a file, found a folder there",
}


@pytest.mark.parametrize("name", FOUND)
def test_a_file_that_cannot_be_read_is_named(
    name: str, bad_files: dict[str, Path], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(bad_files[name]), "--model", str(folders["causal"])]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("tokenmix transcribe: /")
    assert FOUND[name] in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_bad_file_does_not_keep_the_others_from_being_written(
    bad_files: dict[str, Path], folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = expected(folders["causal"], sound(2.5))
    files = [str(bad_files["text.wav"]), str(wav), str(bad_files["missing.wav"])]
    for options in ([], ["--stream"]):
        assert main(["transcribe", *files, "--model", str(folders["causal"]), *options]) == 1
        printed = capsys.readouterr()
        assert printed.out == f"{wav}: {text}\n"
        assert FOUND["text.wav"] in printed.err
        assert FOUND["missing.wav"] in printed.err
        assert "2.50 s of audio" in printed.err
    assert main(["transcribe", *files, "--model", str(folders["causal"]), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    assert [line.get("text") for line in lines] == [None, text, None]
    assert FOUND["text.wav"] in lines[0]["error"]


def test_folders_without_a_model_or_a_tokenizer(
    folders: dict[str, Path], wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    causal = MixerForCTC.from_pretrained(folders["causal"])
    causal.save_pretrained(tmp_path / "no_tokenizer")
    causal.encoder.save_pretrained(tmp_path / "no_head")
    causal.save_pretrained(tmp_path / "other_tokenizer")
    build_ctc_tokenizer(["ab"]).save_pretrained(tmp_path / "other_tokenizer")
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    for name, message in (
        ("missing", "--model: expected a folder of a saved model, found no folder "),
        ("empty", "--model: no speech model could be loaded from "),
        ("gpt2", "--model: expected a speech model of tokenmix (MixerForCTC, SambaASRForConditionalGeneration), found"),
        ("no_head", "--model: expected all weights of a speech model, found none of ctc_head.bias, ctc_head.weight in"),
        ("no_tokenizer", "--model: expected a tokenizer beside the model in "),
        ("other_tokenizer", f"--model: tokenizer: expected the model's vocab_size={len(tokenizer())}, found 7"),
    ):
        assert main(["transcribe", str(wav), "--model", str(tmp_path / name)]) == 2
        printed = capsys.readouterr()
        assert printed.err.splitlines()[-1].startswith(f"tokenmix transcribe: {message}"), printed.err
        assert printed.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk-ms", "0"], "argument --chunk-ms: expected a positive number of milliseconds, found 0"),
        (["--chunk-ms", "nan"], "argument --chunk-ms: expected a positive number of milliseconds, found nan"),
        (["--chunk-ms", "long"], "argument --chunk-ms: invalid"),
        (["--beams", "0"], "argument --beams: expected at least 1, found 0"),
        (["--threads", "0"], "argument --threads: expected at least 1, found 0"),
        (["--device", "nowhere"], "--device: expected one that torch has here, found 'nowhere'"),
    ],
)
def test_mistakes_exit_with_2(
    options: list[str], message: str, folders: dict[str, Path], wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(wav), "--model", str(folders["causal"]), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("package", ["soundfile", "torchaudio"])
def test_without_the_extra_it_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["transcribe", str(wav), "--model", "anything"]) == 2
    printed = capsys.readouterr().err
    assert package in printed
    assert printed.endswith("pip install 'tokenmix[speech]'\n")
    assert printed.count("\n") == 1


def test_a_pipe_is_written_while_it_is_open(processes: ForkServer, folders: dict[str, Path], tmp_path: Path) -> None:
    """The real command reads what a recorder writes: a header without a length, samples, and an end at some time."""
    samples = (sound(3) * 32767).astype("<i2")
    unknown, form = 0xFFFFFFFF, (1, 1, RATE, 2 * RATE, 2, 16)  # PCM, mono, 16 bits
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", unknown, b"WAVEfmt ", 16, *form, b"data", unknown)
    text = expected(folders["causal"], samples.astype(np.float32) / 32768)
    command = ["-m", "tokenmix.cli", "transcribe", "-", "--model", str(folders["causal"]), "--stream"]
    (theirs, speech), (written, out) = os.pipe(), os.pipe()
    with (tmp_path / "errors").open("w") as file:
        process = processes.start(command, stdin=theirs, stdout=out, stderr=file)
    os.close(theirs)
    os.close(out)
    with open(written, "rb") as printed:
        with open(speech, "wb", buffering=0) as recorder:
            recorder.write(header + samples[: 2 * RATE].tobytes())
            first = printed.read(5)  # comes although the pipe is open
            recorder.write(samples[2 * RATE :].tobytes())
        rest = printed.read()
    code, errors = process.wait(120), (tmp_path / "errors").read_text()
    assert code == 0, errors
    assert first + rest == text.encode() + b"\n"
    assert "-: 3.00 s of audio" in errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "-: expected a stream of WAV, found "),
        (b"not a wave file" * 100, "-: expected a stream of WAV, found Format not recognised"),
        (struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36, b"WAVEfmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 0),
         "-: expected samples, found none"),
    ],
    ids=["nothing", "text", "header"],
)  # fmt: skip
def test_a_pipe_that_carries_no_audio(
    content: bytes, message: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "pipe").write_bytes(content)
    with (tmp_path / "pipe").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["transcribe", "-", "--model", str(folders["causal"]), "--stream"]) == 2
    assert capsys.readouterr().err.startswith(f"tokenmix transcribe: {message}")


@pytest.mark.parametrize("chunks", [0, 4])
def test_an_interrupt_ends_a_recording(
    chunks: int,
    folders: dict[str, Path],
    wav: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, left = soundfile.SoundFile.read, iter(range(chunks))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(*arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", interrupted)
    with wav.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        status = main(["transcribe", "-", "--model", str(folders["causal"]), "--stream"])
    text = expected(folders["causal"], sound(2.5)[: chunks * RATE // 5])
    assert status == (0 if chunks else 130)
    printed = capsys.readouterr()
    assert printed.out == text + "\n"
    assert ("-: 0.80 s of audio" in printed.err) == bool(chunks)


@pytest.mark.parametrize(
    ("name", "options", "threads"), [("causal", [], 1), ("causal", ["--threads", "2"], 2), ("both_ways", [], 3)]
)
def test_threads(
    name: str, options: list[str], threads: int, folders: dict[str, Path], wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, before = set(), torch.get_num_threads()

    def count(run: Any) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            seen.add(torch.get_num_threads())
            return run(*arguments, **keywords)

        return counted

    monkeypatch.setattr(SpeechModel, "read", count(SpeechModel.read))
    monkeypatch.setattr(SpeechModel, "forward", count(SpeechModel.forward))
    try:
        torch.set_num_threads(3)
        assert main(["transcribe", str(wav), "--model", str(folders[name]), *options]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {threads}
