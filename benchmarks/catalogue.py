"""All rows."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import attention, block_decoding, decoding, graphs, points, routing, scan, ssd
from benchmarks.rows import Row

ROWS = [
    *scan.ROWS, *ssd.ROWS, *attention.ROWS, *decoding.ROWS, *block_decoding.ROWS, *graphs.ROWS, *points.ROWS,
    *routing.ROWS,
]  # fmt: skip


def find(name: str, peer: str) -> Row:
    """The first row of a name and a peer.

    Raises:
        ValueError: there is none.
    """
    for row in ROWS:
        if (row.name, row.peer) == (name, peer):
            return row
    raise ValueError(f"name, peer: no row {name!r} against {peer!r}")


def select(names: list[str]) -> list[Row]:
    """Rows whose names begin with one of `names`; all, without names.

    Raises:
        ValueError: a name that fits no row.
    """
    for name in names:
        if not any(row.name.startswith(name) for row in ROWS):
            known = ", ".join(sorted({row.name for row in ROWS}))
            raise ValueError(f"names: no row begins with {name!r}; known: {known}")
    return [row for row in ROWS if not names or any(row.name.startswith(name) for name in names)]


def at_lengths(rows: list[Row], lengths: list[int] | None) -> list[Row]:
    """The rows at other lengths, once each, for which there are no targets; as they are, without lengths."""
    if lengths is None:
        return rows
    different = {(row.name, row.peer): row for row in rows}.values()
    return [
        replace(row, length=length, target=None, stretch=None, lengths=()) for row in different for length in lengths
    ]
