"""What is said with each pair, read or synthesised when it is asked for."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenmix.data.pairs.pair_data import Samples
from tokenmix.kernels.build import cache_folders


class Recordings:
    """Files of recordings, one for each pair or None.

    Args:
        paths: of what soundfile reads.
        rate: samples a second of what is given.
    """

    def __init__(self, paths: Sequence[Path | None], rate: int) -> None:
        self.paths, self.rate = list(paths), rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Samples | None:
        """(samples,) float32 in [-1, 1].

        Raises:
            AudioError: a file that cannot be read; the message names it.
        """
        from tokenmix.data.speech.audio import read_audio

        path = self.paths[i]
        return None if path is None else read_audio(path, self.rate)


class SpokenCaptions:
    """Captions as voices of espeak-ng say them, each kept as a FLAC file from the first time on.

    The samples depend on caption, voice and rate alone: they are the same bits whether they were kept or not. A file is
    written under another name and then renamed, so that processes may fill one folder at once, and one that cannot be
    read is made anew.

    Args:
        captions: what is said. One that espeak-ng says nothing for gives None.
        languages: of each caption, such as "en", "pt_BR"; None: all are English.
        rate: samples a second.
        voices: of espeak-ng, such as "en-us+f2"; which one says a caption is a function of the caption. Default a voice
            of the caption's language.
        folder: where files are kept; default the folder `speech` of tokenmix's cache folder, or nowhere if that cannot
            be written.

    Raises:
        ModuleNotFoundError: espeak-ng is not there; the message says what to install. ValueError: an unknown voice, or
            a folder that cannot be written.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> said = SpokenCaptions(["digit one", "..."], rate=8000, folder=folder)
        >>> len(said), 4000 < len(said[0]) < 16000, said[1], len(os.listdir(folder))
        (2, True, None, 1)
    """

    def __init__(
        self,
        captions: Sequence[str],
        languages: Sequence[str] | None = None,
        *,
        rate: int = 16_000,
        voices: Sequence[str] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        from tokenmix.data.speech.espeak_voice import speak

        if voices is not None and (isinstance(voices, str) or not voices):
            raise ValueError(f"voices: expected a list of some of espeak-ng's, found {voices!r}")
        spoken = ["en"] * len(captions) if languages is None else languages
        self.captions, self.rate = list(captions), rate
        self.voices = [_voice(*pair, voices) for pair in zip(captions, spoken, strict=True)]
        for voice in sorted(set(self.voices)):
            speak("a", voice)  # refuses one that is none
        self.folder = _open_folder(folder)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, i: int) -> Samples | None:
        """(samples,) float32 in [-1, 1]; None where espeak-ng says nothing for the caption."""
        from tokenmix.data.speech.audio import AudioError, read_audio

        caption, voice = self.captions[i], self.voices[i]
        if self.folder is None:
            return _said(caption, voice, self.rate)
        name = f"espeak {voice} {self.rate}: {caption}"
        path = self.folder / f"{hashlib.sha1(name.encode()).hexdigest()}.flac"
        if path.is_file():
            try:
                return read_audio(path, self.rate)
            except AudioError:  # damaged: it is made again
                pass
        samples = _said(caption, voice, self.rate)
        if samples is not None:
            _write(path, samples, self.rate)
        return samples


def _voice(caption: str, language: str, voices: Sequence[str] | None) -> str:
    if voices is not None:
        return random.Random(f"voice {caption}").choice(voices)
    return "en-us" if language == "en" else language.replace("_", "-").lower()


def _said(caption: str, voice: str, rate: int) -> Samples | None:
    """Samples of sixteen bits, as the file holds them."""
    from tokenmix.data.speech.audio import resample
    from tokenmix.data.speech.espeak_voice import speak

    try:
        samples, found = speak(caption, voice)
    except ValueError:  # the voice is known, so that it is the text that nothing can be said for
        return None
    if not samples.any():  # silence, as for "..."
        return None
    whole = np.clip(np.round(resample(samples, found, rate) * 32768), -32768, 32767)
    return whole.astype(np.int16).astype(np.float32) / np.float32(32768)  # integers know no -0.0


def _write(path: Path, samples: Samples, rate: int) -> None:
    """All of it, or nothing."""
    import soundfile

    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            soundfile.write(file, (samples * 32768).astype(np.int16), rate, format="FLAC")
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _open_folder(folder: str | Path | None) -> Path | None:
    """The folder that is asked for, or one of the cache folders that can be written, if there is one."""
    places = [place / "speech" for place in cache_folders()] if folder is None else [Path(folder).expanduser()]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError as error:
            if folder is not None:
                raise ValueError(f"folder: expected one for speech that can be written, found {error}") from error
    return None
