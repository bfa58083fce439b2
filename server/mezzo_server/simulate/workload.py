"""What is simulated: requests for chunks, from traces in either format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from mezzo.errors import InvalidArgument, TooLarge
from mezzo.replay.trace import REFERENCES_MAX, read_trace

CSV_LINE_BYTES_MAX = 4096
CSV_SIZE_MAX = 1 << 40
CSV_COLUMNS_MAX = 64
CSV_COLUMNS = (0, 1, 2)
"""time, object, size: as libCacheSim writes them"""


class ChunkRequest(Struct, frozen=True, gc=False):
    """One request: chunks by number, in the order of their prefix."""

    time_s: float
    ids: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    """bytes of each; empty: as the options say"""


class Workload(Struct, frozen=True):
    """Requests in the order of their time."""

    name: str
    requests: tuple[ChunkRequest, ...]
    sha256: str

    @property
    def references(self) -> int:
        """Chunks asked for, over all requests."""
        return sum(len(request.ids) for request in self.requests)

    def distinct_bytes(self, chunk_bytes: int) -> int:
        """Bytes of all different chunks; ``chunk_bytes`` for each whose size the trace does not tell."""
        sizes: dict[int, int] = {}
        for request in self.requests:
            if request.sizes:
                sizes.update(zip(request.ids, request.sizes, strict=True))
            else:
                sizes.update(dict.fromkeys(request.ids, chunk_bytes))
        return sum(sizes.values())

    def head(self, requests_max: int) -> Workload:
        """The first ``requests_max`` requests; all for 0."""
        if not 0 < requests_max < len(self.requests):
            return self
        return Workload(
            f"{self.name}, first {requests_max} requests", self.requests[:requests_max], self.sha256
        )


def read_workload(path: Path, columns: tuple[int, int, int] = CSV_COLUMNS) -> Workload:
    """A trace in the format of `mezzo replay`, or libCacheSim's CSV if the name ends with ``.csv``.

    Raises InvalidArgument (unreadable, or a line that is not as the format says) or TooLarge.
    """
    if path.suffix != ".csv":
        trace = read_trace(path)
        requests = tuple(ChunkRequest(r.timestamp_ms / 1000, r.hash_ids) for r in trace.requests)
        return Workload(path.name, requests, trace.sha256)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            parsed = tuple(parse_csv(_lines(file, path.name, digest), path.name, columns))
    except OSError as error:
        raise InvalidArgument(f"trace {path}: {error.strerror or error}") from error
    if not parsed:
        raise InvalidArgument(f"trace {path}: no request in it")
    return Workload(path.name, parsed, digest.hexdigest())


def parse_csv(
    lines: Iterable[bytes], name: str, columns: tuple[int, int, int] = CSV_COLUMNS
) -> Iterator[ChunkRequest]:
    """Requests of one chunk each from lines ``time, object, size``; more columns are ignored.

    ``columns`` are the places of these three, from 0.  Times are numbers that never fall, objects any
    text, sizes bytes (0 is taken for 1: some traces have it).  A first line whose time is no number is a
    heading.  https://github.com/1a1a11a/libCacheSim/blob/develop/doc/quickstart_plugin.md, "csv".
    """
    if min(columns) < 0 or max(columns) >= CSV_COLUMNS_MAX or len(set(columns)) < len(columns):
        raise InvalidArgument(f"columns {columns}: three different ones, from 0 to {CSV_COLUMNS_MAX - 1}")
    numbers: dict[bytes, int] = {}
    sizes: dict[int, int] = {}
    last_s = float("-inf")
    references = 0
    for line_number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        where = f"{name}, line {line_number}"
        cells = [cell.strip() for cell in text.split(b",", CSV_COLUMNS_MAX)]
        if len(cells) <= max(columns):
            raise InvalidArgument(f"{where}: {len(cells)} columns; {max(columns) + 1} are needed")
        time_s = _number(cells[columns[0]])
        if time_s is None:
            if not references and line_number == 1:
                continue
            raise InvalidArgument(f"{where}: time {_shown(cells[columns[0]])} is no number")
        if time_s < last_s:
            raise InvalidArgument(f"{where}: time {time_s:g} comes after {last_s:g}")
        size = cells[columns[2]]
        if not size.isdigit() or len(size) > 13 or int(size) > CSV_SIZE_MAX:
            raise InvalidArgument(f"{where}: size {_shown(size)} is no number from 0 to {CSV_SIZE_MAX}")
        if not cells[columns[1]]:
            raise InvalidArgument(f"{where}: the object has no name")
        last_s = time_s
        references += 1
        if references > REFERENCES_MAX:
            raise TooLarge(f"{where}: over {REFERENCES_MAX} references")
        number = numbers.setdefault(cells[columns[1]], len(numbers))
        # A chunk never changes: the first size counts.
        yield ChunkRequest(time_s, (number,), (sizes.setdefault(number, max(int(size), 1)),))


def _number(cell: bytes) -> float | None:
    """A finite number that is not negative."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _shown(cell: bytes) -> str:
    return repr(cell[:40].decode("utf-8", "backslashreplace"))


def _lines(file: BinaryIO, name: str, digest: hashlib._Hash) -> Iterator[bytes]:
    number = 0
    while line := file.readline(CSV_LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > CSV_LINE_BYTES_MAX:
            raise TooLarge(f"{name}, line {number}: over {CSV_LINE_BYTES_MAX} bytes")
        digest.update(line)
        yield line
