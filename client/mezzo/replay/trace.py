"""Request traces: JSON lines, one request of a language model server each.

A line is an object with ``timestamp`` (milliseconds since the trace's start), ``input_length``
and ``output_length`` (tokens) and ``hash_ids``: one number for each block of 512 tokens of the
input, the same number whenever the block *and everything before it* is the same. This is the
format of the traces published with Mooncake (FAST'25), docs/replay.md. Other fields are ignored.

Everything read is bounded, and what is wrong is told with file, line and field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import InvalidArgument, TooLarge

BLOCK_TOKENS = 512

LINE_BYTES_MAX = 4 * 1024**2
REQUESTS_MAX = 2_000_000
REFERENCES_MAX = 50_000_000
BLOCKS_MAX = 65_536
"""blocks of one request: 32 Mi tokens"""
HASH_ID_MAX = 2**63 - 1


class Request(Struct, frozen=True, gc=False):
    """One request: when it came, how long it was, and which blocks its input consists of."""

    timestamp_ms: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]


class TraceSummary(Struct, frozen=True):
    """What a trace holds, and the best that any cache could do with it."""

    requests: int
    references: int
    """block references of all requests"""
    distinct: int
    """distinct blocks"""
    seen_before: int
    """references to a block that an earlier request of the trace had as well"""
    duration_s: float

    @property
    def hit_rate_max(self) -> float:
        """Ceiling of the hit rate: `seen_before` / `references`, which only an unbounded cache
        that starts empty and is filled at once reaches.
        """
        return self.seen_before / self.references if self.references else 0.0


class Trace(Struct, frozen=True):
    """Requests in the order of their time, and where they come from."""

    name: str
    requests: tuple[Request, ...]
    sha256: str = ""
    """of the file, hexadecimal; empty for a workload that was made and not read"""

    def head(self, requests_max: int) -> Trace:
        """The first ``requests_max`` requests of it (all for 0)."""
        if requests_max <= 0 or requests_max >= len(self.requests):
            return self
        name = f"{self.name}, first {requests_max} requests"
        return Trace(name, self.requests[:requests_max], self.sha256)

    def repeated(self, epochs: int) -> Trace:
        """The same requests ``epochs`` times over, one run of the trace after the other."""
        if epochs <= 1 or not self.requests:
            return self
        step_ms = self.requests[-1].timestamp_ms - self.requests[0].timestamp_ms
        requests = tuple(
            Request(r.timestamp_ms + epoch * step_ms, r.input_tokens, r.output_tokens, r.hash_ids)
            for epoch in range(epochs)
            for r in self.requests
        )
        return Trace(f"{self.name}, {epochs} times", requests, self.sha256)

    def seen_before(self) -> tuple[int, ...]:
        """For each request, how many of its blocks an earlier request had as well."""
        seen: set[int] = set()
        counts = []
        for request in self.requests:
            counts.append(sum(1 for hash_id in request.hash_ids if hash_id in seen))
            seen.update(request.hash_ids)
        return tuple(counts)

    def summary(self) -> TraceSummary:
        """Counts, and the ceiling of the hit rate."""
        references = sum(len(request.hash_ids) for request in self.requests)
        seen_before = sum(self.seen_before())
        duration_s = 0.0
        if self.requests:
            duration_s = (self.requests[-1].timestamp_ms - self.requests[0].timestamp_ms) / 1000
        # Whatever was not seen before is a block of its own.
        distinct = references - seen_before
        return TraceSummary(len(self.requests), references, distinct, seen_before, duration_s)


class _Line(Struct):
    """One line as it is written."""

    timestamp: Annotated[float, Meta(ge=0, le=1e15)]
    input_length: Annotated[int, Meta(ge=0, le=2**40)]
    output_length: Annotated[int, Meta(ge=0, le=2**40)]
    hash_ids: Annotated[
        list[Annotated[int, Meta(ge=0, le=HASH_ID_MAX)]], Meta(min_length=1, max_length=BLOCKS_MAX)
    ]


_DECODER = msgspec.json.Decoder(_Line)


def read_trace(path: Path) -> Trace:
    """Read and check a trace.

    Raises `InvalidArgument` (unreadable, or a line that is not as the format says: the message
    names file, line and field) and `TooLarge` (over one of the limits of this module).
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            requests = tuple(parse(_lines(file, path.name, digest.update), path.name))
    except OSError as error:
        raise InvalidArgument(f"trace {path}: {error.strerror or error}") from error
    if not requests:
        raise InvalidArgument(f"trace {path}: no request in it")
    return Trace(path.name, requests, digest.hexdigest())


def parse(lines: Iterable[bytes], name: str) -> Iterator[Request]:
    """The requests in ``lines`` (numbered from 1 in errors; empty ones are skipped)."""
    references = 0
    requests = 0
    last_ms = 0.0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        request = _parse_line(line, f"{name}, line {number}")
        if request.timestamp_ms < last_ms:
            raise InvalidArgument(
                f"{name}, line {number}: timestamp: {request.timestamp_ms:g} ms comes after {last_ms:g} ms"
            )
        last_ms = request.timestamp_ms
        requests += 1
        references += len(request.hash_ids)
        if requests > REQUESTS_MAX:
            raise TooLarge(f"{name}, line {number}: over {REQUESTS_MAX} requests")
        if references > REFERENCES_MAX:
            raise TooLarge(f"{name}, line {number}: over {REFERENCES_MAX} block references")
        yield request


def format_request(request: Request) -> bytes:
    """One line of a trace, without its newline; `parse` reads it back."""
    timestamp = request.timestamp_ms
    return msgspec.json.encode(
        {
            "timestamp": int(timestamp) if timestamp.is_integer() else timestamp,
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.hash_ids,
        }
    )


def _parse_line(line: bytes, where: str) -> Request:
    try:
        parsed = _DECODER.decode(line)
    except msgspec.ValidationError as error:
        # msgspec: "Expected `int` >= 0 - at `$.hash_ids[3]`"
        problem, _, place = str(error).partition(" - at `$")
        field = place.strip("`").lstrip(".") or "the line"
        raise InvalidArgument(f"{where}: {field}: {problem}") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{where}: not JSON: {error}") from error
    if len(set(parsed.hash_ids)) != len(parsed.hash_ids):
        raise InvalidArgument(
            f"{where}: hash_ids: one number twice, though each names a block with its whole prefix"
        )
    return Request(parsed.timestamp, parsed.input_length, parsed.output_length, tuple(parsed.hash_ids))


def _lines(file: BinaryIO, name: str, seen: Callable[[bytes], None]) -> Iterator[bytes]:
    """Lines of ``file``; each is shown to ``seen`` as it is, too long ones are an error."""
    for number in count(1):
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX:
            raise TooLarge(f"{name}, line {number}: over {LINE_BYTES_MAX} bytes")
        seen(line)
        yield line
