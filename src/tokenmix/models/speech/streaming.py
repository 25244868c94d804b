"""Transcription of a stream, bit for bit that of the whole, and in constant memory where the mixers' is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenmix.mixer import check_positive
from tokenmix.models.speech.ctc import MixerForCTC
from tokenmix.models.speech.ctc_decoding import build_decoder
from tokenmix.models.speech.ctc_text import CTCText

BLOCK = 10  # tokens; 200 ms with the front end's default sizes


class LogitStream:
    """CTC logits of one stream, which do not depend on how it is cut into chunks, not in a single bit.

    Sums in another order differ in their last bits. So samples are gathered until they make `block` tokens, and the
    encoder always reads that many, however they came; what is left at the end is read as it is. Each computation then
    has the same shapes, at the same places, for every cut, the whole in one chunk among them.

    Args:
        model: causal, in eval().
        block: tokens read at a time: more are faster, fewer are known sooner.

    Raises:
        TypeError, ValueError: another kind of model, one that reads the future or is in training, or a block below 1.

    Example:
        >>> from tokenmix.models.speech import SpeechConfig
        >>> config = SpeechConfig(hidden_size=32, causal=True, mixers={"m": {"mixer": "mamba"}}, pattern="mm")
        >>> stream = LogitStream(MixerForCTC(config).eval())
        >>> [stream.read(torch.randn(3000)).shape[0], stream.read(torch.randn(800)).shape[0], stream.finish().shape[0]]
        [0, 10, 2]
    """

    def __init__(self, model: MixerForCTC, block: int = BLOCK) -> None:
        if not isinstance(model, MixerForCTC):
            raise TypeError(f"model: expected a MixerForCTC, found {type(model).__name__}")
        if model.training:
            raise ValueError("model: expected one in eval(), found one in training, whose dropout is random")
        check_positive("block", block)
        self.model = model
        self._state = model.encoder.init_stream()
        self._waiting = torch.zeros(1, block * model.config.inputs_to_logits_ratio)
        self._count = 0

    @property
    def nbytes(self) -> int:
        """Bytes kept: the encoder's state, and room for a block of samples."""
        return self._state.nbytes + self._waiting.nbytes

    def read(self, samples: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Logits (T, vocab_size) of the blocks that a chunk completes; T may be 0.

        Args:
            samples: (n,) floating point in [-1, 1] at the model's rate, of any number.

        Raises:
            TypeError, ValueError: another type or shape, or samples that are not finite; nothing is then read.
        """
        samples = check_samples(samples)
        logits, start, size = [self._none()], 0, self._waiting.shape[1]
        while start < len(samples):
            part = samples[start : start + size - self._count]
            self._waiting[0, self._count : self._count + len(part)] = part
            self._count += len(part)
            start += len(part)
            if self._count == size:
                logits.append(self._run())
        return torch.cat(logits)

    def finish(self) -> Tensor:
        """Logits (T, vocab_size) of what is left; the next chunk begins another stream."""
        logits = self._run() if self._count else self._none()
        self._state = self.model.encoder.init_stream()
        return logits

    @torch.no_grad()
    def _run(self) -> Tensor:
        samples = self._waiting[:, : self._count].clone().to(self.model.device)  # a copy: aligned as any other
        self._count = 0
        logits: Tensor = self.model.ctc_head(self.model.encoder.read(samples, self._state))
        return logits[0]

    def _none(self) -> Tensor:
        weight = self.model.ctc_head.weight
        return weight.new_zeros(0, len(weight))


class Transcriber:
    """Text of one stream of audio as it comes, the same for every cut into chunks.

    What is written is `tokenizer.decode` of the likeliest symbols of all tokens, or with beams > 1 the likeliest
    labelling that prefix beam search finds. Text is given out once nothing that follows can change it.

    Args:
        model: a causal `MixerForCTC` in eval().
        tokenizer: of the model.
        block: tokens read at a time, as in `LogitStream`.
        beams: prefixes of the beam search; 1 is greedy.

    Raises:
        TypeError, ValueError: as `LogitStream`, or a tokenizer that does not fit.

    Attributes:
        text: what was written so far.

    Example:
        >>> from tokenmix.data.speech import build_ctc_tokenizer
        >>> from tokenmix.models.speech import SpeechConfig
        >>> tokenizer, mixers = build_ctc_tokenizer(["a bad cab"]), {"m": {"mixer": "mamba"}}
        >>> config = SpeechConfig(
        ...     vocab_size=len(tokenizer), pad_token_id=0, hidden_size=32, causal=True, mixers=mixers, pattern="m"
        ... )
        >>> transcriber, audio = Transcriber(MixerForCTC(config).eval(), tokenizer), torch.randn(16000)
        >>> pieces = [transcriber.read(chunk) for chunk in audio.split(1234)] + [transcriber.finish()]
        >>> "".join(pieces) == transcriber.text == Transcriber(transcriber.model, tokenizer).transcribe(audio)
        True
    """

    def __init__(self, model: MixerForCTC, tokenizer: Any, *, block: int = BLOCK, beams: int = 1) -> None:
        self._stream = LogitStream(model, block)
        self.model, self.tokenizer, self.beams = model, tokenizer, beams
        self.text, self._finished = "", True
        self._begin()

    @property
    def nbytes(self) -> int:
        """Bytes kept beside the text."""
        return self._stream.nbytes + self._decoder.nbytes + self._writer.nbytes

    def read(self, samples: Tensor | np.ndarray[Any, Any]) -> str:
        """Text that a chunk makes certain; it may be empty.

        Args:
            samples: (n,) floating point in [-1, 1] at the model's rate, of any number. The first chunk after `finish`
                begins another stream.

        Raises:
            TypeError, ValueError: another type or shape, or samples that are not finite; nothing is then read.
        """
        logits = self._stream.read(samples)
        if self._finished:
            self.text, self._finished = "", False
        return self._write(self._decoder.read(logits))

    def finish(self) -> str:
        """Text that the end of the stream makes certain."""
        symbols = self._decoder.read(self._stream.finish())
        text = self._write(symbols + self._decoder.finish())
        self._begin()
        self._finished = True
        return text

    def transcribe(self, samples: Tensor | np.ndarray[Any, Any]) -> str:
        """Text of a whole utterance.

        Raises:
            ValueError: in the midst of a stream; otherwise as `read`.
        """
        if not self._finished:
            raise ValueError("transcribe: expected a stream that was finished, found one in its midst")
        return self.read(samples) + self.finish()

    def _begin(self) -> None:
        config = self.model.config
        self._decoder = build_decoder(config.pad_token_id, self.beams)
        self._writer = CTCText(self.tokenizer, config.vocab_size, config.pad_token_id)

    def _write(self, symbols: list[int]) -> str:
        text = self._writer.read(symbols)
        self.text += text
        return text


def check_samples(samples: Any) -> Tensor:
    """One channel of audio as a tensor.

    Args:
        samples: (n,) floating point, a tensor or an array.

    Raises:
        TypeError, ValueError: another type or shape, or samples that are not finite.

    Example:
        >>> check_samples(np.array([0.5, np.nan]))
        Traceback (most recent call last):
        ...
        ValueError: samples: expected finite numbers, found nan at place 1
    """
    if isinstance(samples, np.ndarray) and samples.dtype.kind == "f":
        samples = torch.from_numpy(samples.astype(np.float32))
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        found = getattr(samples, "dtype", type(samples).__name__)
        raise TypeError(f"samples: expected a floating point tensor or array in [-1, 1], found {found}")
    if samples.dim() != 1:
        raise ValueError(f"samples: expected shape (n,), one channel, found {tuple(samples.shape)}")
    finite = samples.isfinite()
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0, 0])
        raise ValueError(f"samples: expected finite numbers, found {samples[place].item()} at place {place}")
    return samples.detach()
