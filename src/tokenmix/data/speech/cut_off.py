"""Whether a file ends before it should, where soundfile would read the rest without a word."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

_UNKNOWN = 0x7FFFF000  # a RIFF that was written to a pipe says this much or more, for a length nobody knew
_OGG_TAIL = 65536 + 512  # the longest page of Ogg is 65,307 bytes


def cut_off(source: str | os.PathLike[str] | bytes) -> str | None:
    """What is missing at the end of a WAV or Ogg file; None where nothing is, and for every other kind of file.

    FLAC and MP3 say how many samples they hold, which `read_audio` compares with what it finds. libsndfile takes WAV
    and Ogg for as long as they are: a WAV is compared with the size of its data chunk, and an Ogg's last page must be
    whole and marked as the last one.

    Args:
        source: a path, or the bytes of a file.

    Example:
        >>> import struct
        >>> wav = b"RIFF" + struct.pack("<I", 44) + b"WAVEdata" + struct.pack("<I", 32) + bytes(20)
        >>> cut_off(wav)
        '20 of 32 bytes of samples'
    """
    if isinstance(source, bytes):
        return _missing(io.BytesIO(source), len(source))
    with open(source, "rb") as file:
        return _missing(file, os.fstat(file.fileno()).st_size)


def _missing(file: BinaryIO, size: int) -> str | None:
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        return _missing_of_wav(file, size)
    if start[:4] == b"OggS":
        return _missing_of_ogg(file, size)
    return None


def _missing_of_wav(file: BinaryIO, size: int) -> str | None:
    """Walks the chunks (4 bytes of name, 4 of size, content, filled to an even number) up to the samples."""
    place = 12
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            there = size - place - 8
            return f"{there:,} of {length:,} bytes of samples" if there < length < _UNKNOWN else None
        place += 8 + length + length % 2
    return "no samples"


def _missing_of_ogg(file: BinaryIO, size: int) -> str | None:
    """A page: 27 bytes, of which the sixth has a bit for the last page and the last counts segments; sizes; content."""
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    place = tail.rfind(b"OggS")
    page = tail[place:] if place >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "a last page that is not whole"
    return None if page[5] & 4 else "no page that is marked as the last"
