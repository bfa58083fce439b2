"""Arithmetic on lists of spans: cut, measure, align. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.memory import Span

SPANS_PER_TRANSFER_MAX = 512
"""below IOV_MAX (1024), with room for headers and padding"""


def total(spans: Sequence[Span]) -> int:
    """Bytes in all."""
    if len(spans) == 1:
        return spans[0].length
    return sum([span.length for span in spans])


def cut(spans: Sequence[Span], offset: int, length: int) -> list[Span]:
    """The ``length`` bytes from ``offset`` on, as spans. ValueError beyond the end."""
    if len(spans) == 1 and not offset and spans[0].length == length:
        return list(spans)
    result = []
    for span in spans:
        if not length:
            break
        if offset >= span.length:
            offset -= span.length
            continue
        take = min(length, span.length - offset)
        result.append(span.part(offset, take))
        offset = 0
        length -= take
    if length:
        raise ValueError(f"{length} bytes are missing")
    return result


def direct(spans: Sequence[Span], memory_align_bytes: int) -> bool:
    """Whether a device can move whole blocks between itself and these spans without a bounce.

    Every address must be aligned, and every length but the last a multiple of the block.
    """
    last = len(spans) - 1
    if last >= SPANS_PER_TRANSFER_MAX // 2:
        return False
    for number, (memory, offset, length) in enumerate(spans):
        if (memory.address + offset) % memory_align_bytes:
            return False
        if number < last and length % BLOCK_BYTES:
            return False
    return True


def by_part(spans: Sequence[Span], lengths: Sequence[int]) -> Iterator[list[Span]]:
    """The spans of each part in turn."""
    if len(lengths) == 1:
        yield list(spans)
        return
    at = 0
    for length in lengths:
        yield cut(spans, at, length)
        at += length


def copy(target: Sequence[Span], source: Sequence[Span]) -> None:
    """Copy at once, in the caller's thread: for small pieces. Equal totals."""
    at = 0
    for span in target:
        done = 0
        for piece in cut(source, at, span.length):
            span.view[done : done + piece.length] = piece.view
            done += piece.length
        at += span.length
