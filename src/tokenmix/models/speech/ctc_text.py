"""Text of CTC symbols, a piece at a time, as of the whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Wav2Vec2CTCTokenizer

from tokenmix.models.speech.ctc_decoding import build_decoder


class CTCText:
    """Text of CTC symbols, a piece at a time: all pieces together are `tokenizer.decode` of the whole.

    The word delimiter becomes a space. White space at the start is left out, and white space at the end waits until
    something follows it. Spaces before punctuation stay (clean_up_tokenization_spaces=False).

    Args:
        tokenizer: of CTC, such as `tokenmix.data.speech.build_ctc_tokenizer` makes.
        vocab_size: symbols of the model.
        blank: of the model.

    Raises:
        TypeError: a tokenizer that is none of CTC.
        ValueError: one of another size or blank, or in which two symbols have one name.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, blank: int) -> None:
        if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
            raise TypeError(f"tokenizer: expected a Wav2Vec2CTCTokenizer, found {type(tokenizer).__name__}")
        for name, wanted, found in (
            ("vocab_size", vocab_size, len(tokenizer)),
            ("pad_token_id", blank, tokenizer.pad_token_id),
        ):
            if wanted != found:
                raise ValueError(f"tokenizer: expected the model's {name}={wanted}, found {found}")
        names = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
        if len(set(names)) < vocab_size:
            raise ValueError(f"tokenizer: expected a name of its own for each symbol, found {len(set(names))} names")
        delimiter, space = tokenizer.word_delimiter_token, tokenizer.replace_word_delimiter_char
        self._pieces = [space if name == delimiter else name for name in names]
        if tokenizer.do_lower_case:
            self._pieces = [piece.lower() for piece in self._pieces]
        self._begun, self._waiting = False, ""

    def read(self, symbols: list[int]) -> str:
        """Text that symbols make certain."""
        known = self._waiting + "".join(self._pieces[symbol] for symbol in symbols)
        if not self._begun:
            known = known.lstrip()
        text = known.rstrip()
        self._begun, self._waiting = self._begun or bool(text), known[len(text) :]
        return text

    @property
    def nbytes(self) -> int:
        """Bytes of the white space that waits."""
        return len(self._waiting.encode())


def ctc_text(logits: Tensor, tokenizer: Any, blank: int, beams: int = 1) -> str:
    """Text of the logits of one utterance.

    Args:
        logits: (T, vocab_size).
        tokenizer: of CTC.
        blank: the symbol of no label.
        beams: prefixes of the beam search; 1 is greedy, and gives `tokenizer.decode(logits.argmax(-1))`.

    Raises:
        TypeError, ValueError: beams that are no positive integer, or a tokenizer that does not fit (see `CTCText`).

    Example:
        >>> import torch
        >>> from tokenmix.data.speech import build_ctc_tokenizer
        >>> tokenizer = build_ctc_tokenizer(["a bad cab"])
        >>> symbols = torch.tensor(tokenizer.encode("cab"))
        >>> ctc_text(torch.eye(len(tokenizer))[symbols.repeat_interleave(2)], tokenizer, tokenizer.pad_token_id)
        'cab'
    """
    decoder, writer = build_decoder(blank, beams), CTCText(tokenizer, logits.shape[1], blank)
    return writer.read(decoder.read(logits) + decoder.finish())
