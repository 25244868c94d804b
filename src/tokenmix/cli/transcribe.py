"""`tokenmix transcribe`: the text of audio, from files or a pipe, whole or as it comes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from typing import Any

from tokenmix.cli.errors import UsageError


def add_parser(commands: Any) -> None:
    """Add the arguments of this command."""
    parser = commands.add_parser("transcribe", help="write the text of audio", description=run.__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="audio that soundfile reads; - is WAV from the standard input")
    add("--model", required=True, metavar="FOLDER", help="where a speech model and its tokenizer were saved")
    add("--stream", action="store_true", help="print text as soon as it is certain; needs a causal CTC model")
    add("--chunk-ms", type=_milliseconds, default=200.0, metavar="MS", help="audio read at a time (default 200)")
    add("--beams", type=_count, default=1, metavar="N", help="prefixes of a beam search (default 1, greedy)")
    add(
        "--threads",
        type=_count,
        metavar="N",
        help="CPU threads (default 1 for a causal model, else torch's choice)",
    )
    add("--device", default="cpu", help="where the model runs, such as cuda (default cpu)")
    add("--json", action="store_true", help="print a JSON object a line: each piece of a stream, and each file's end")


@dataclasses.dataclass
class Result:
    """What was found out about a file.

    Attributes:
        file: its name.
        text: what was said.
        audio_seconds: its length.
        work_seconds: spent on it, without waiting for audio.
        real_time_factor: work_seconds / audio_seconds.
        state_bytes: kept between two chunks at the end; None for a model that reads the whole at once.
    """

    file: str
    text: str
    audio_seconds: float
    work_seconds: float
    real_time_factor: float
    state_bytes: int | None

    def __str__(self) -> str:
        kept = "" if self.state_bytes is None else f", {self.state_bytes / 1024:.0f} KiB of state"
        return (
            f"{self.file}: {self.audio_seconds:.2f} s of audio, {self.work_seconds:.2f} s of work, real-time factor "
            f"{self.real_time_factor:.3f}{kept}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Print the text of audio, and how long that took; exit status 1 if some file cannot be read, 2 if none can."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        import soundfile  # noqa: F401  # asked for before a model is loaded
        import torchaudio  # noqa: F401

        from tokenmix.cli.transcribe_model import load_model, load_tokenizer, warm_up, why_no_stream
    except (ModuleNotFoundError, OSError) as error:
        raise UsageError(f"{error}; pip install 'tokenmix[speech]'") from error
    model = load_model(arguments.model, arguments.device)
    reason = why_no_stream(model)
    if arguments.stream and reason is not None:
        raise UsageError(
            f"--stream: expected a causal MixerForCTC, found {reason}; train a MixerForCTC with causal=True, causal "
            "mixers and normalise='global' or 'running', or leave --stream out"
        )
    tokenizer = load_tokenizer(arguments.model, model)
    threads = torch.get_num_threads()
    if arguments.threads is not None or reason is None:  # blocks are small: threads would only wait for each other
        torch.set_num_threads(arguments.threads or 1)
    try:
        warm_up(model)
        return _transcribe_all(model, tokenizer, arguments)
    finally:
        torch.set_num_threads(threads)


def _transcribe_all(model: Any, tokenizer: Any, arguments: argparse.Namespace) -> int:
    """Transcribe each file; the exit status."""
    from tokenmix.data.speech import AudioError

    failed = 0
    for name in arguments.files:
        try:
            result = _transcribe(name, model, tokenizer, arguments)
        except AudioError as error:
            failed += 1
            print(f"tokenmix transcribe: {error}", file=sys.stderr, flush=True)
            if arguments.json:
                _print_json({"file": name, "error": str(error)})
        except KeyboardInterrupt:
            return 130
        else:
            if arguments.json:
                _print_json(dataclasses.asdict(result))
            else:
                print(result, file=sys.stderr, flush=True)
    if failed == len(arguments.files):
        return 2
    return 1 if failed else 0


def _transcribe(name: str, model: Any, tokenizer: Any, arguments: argparse.Namespace) -> Result:
    """Read a file, print its text, and say how long that took.

    Raises:
        AudioError: one that cannot be read.
    """
    from tokenmix.cli.transcribe_audio import AudioFile, Resampler
    from tokenmix.cli.transcribe_model import build_transcriber

    audio, clock = AudioFile(name), _Clock()
    resampler = Resampler(audio.rate, model.config.sampling_rate)
    transcriber = build_transcriber(model, tokenizer, arguments.beams)
    plain, label = not arguments.json, f"{name}: " if len(arguments.files) > 1 else ""
    heard = 0

    def show(piece: str) -> None:
        if piece and plain:
            print(piece, end="", flush=True)
        elif piece:
            _print_json({"file": name, "seconds": round(heard / audio.rate, 3), "piece": piece})

    if arguments.stream and plain:
        print(label, end="", flush=True)
    try:
        try:
            for chunk in audio.chunks(arguments.chunk_ms / 1000):
                heard += len(chunk)
                with clock:
                    piece = transcriber.read(resampler.read(chunk))
                if arguments.stream:
                    show(piece)
        except KeyboardInterrupt:  # the end of a recording
            if not audio.piped or not heard:
                raise
        state = transcriber.nbytes
        with clock:
            piece = transcriber.read(resampler.finish()) + transcriber.finish()
        if arguments.stream:
            show(piece)
    finally:
        if arguments.stream and plain:
            print(flush=True)
    if plain and not arguments.stream:
        print(label + transcriber.text, flush=True)
    seconds = heard / audio.rate
    return Result(name, transcriber.text, seconds, clock.seconds, clock.seconds / seconds, state)


class _Clock:
    """Seconds spent inside `with`, all of them together."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start


def _print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found, ensure_ascii=False), flush=True)


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of milliseconds, found {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return value
