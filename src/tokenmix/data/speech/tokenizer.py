"""Characters as tokens, with transformers' own tokenizer for CTC."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import Wav2Vec2CTCTokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build_ctc_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """A tokenizer of the characters in some texts, in alphabetical order behind the special ones.

    "<pad>", number 0, is CTC's blank; "<s>" and "</s>" open and close what a decoder writes; the space is written "|".

    Args:
        texts: normalised transcripts.

    Raises:
        ValueError: no character at all.

    Example:
        >>> tokenizer = build_ctc_tokenizer(["a bad cab"])
        >>> ids = tokenizer("bad cab").input_ids
        >>> tokenizer.decode(ids, group_tokens=False), tokenizer.decode([6, 6, 0, 5, 5])
        ('bad cab', 'ba')
    """
    characters = sorted(set().union(*map(set, texts)) - {" "})
    if not characters:
        raise ValueError("texts: expected at least one character, found none")
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, "|", *characters])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        pad, bos, eos, unk = SPECIAL
        return Wav2Vec2CTCTokenizer(
            str(path), pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk, word_delimiter_token="|"
        )
