"""The load generator against an in-memory store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo.replay.load import Load, LoadOptions, LoadReport
from mezzo.testing import FakeClient, FakeStore

PLENTY = 2**30


def load(client: type[FakeClient] = FakeClient, store: FakeStore | None = None, **options: Any) -> LoadReport:
    target = store or FakeStore(PLENTY)
    chosen = {"chunk_bytes": 4096, "chunks": 20, "operations": 60, "verify": True, "duration_s": 600.0}
    return Load(lambda: client(target), LoadOptions(**{**chosen, **options})).run()


def test_a_mix_is_done_and_counted() -> None:
    store = FakeStore(PLENTY)
    report = load(store=store, get=50, put=30, lookup=20, depth=3, batch=4)
    rows = {"get": report.get, "put": report.put, "lookup": report.lookup}
    # Filling the working set takes 5 puts of 4.
    assert sum(row.requests for row in rows.values()) == 60
    assert all(row.requests > 0 and row.latency.count == row.requests for row in rows.values())
    assert all(row.chunks == 4 * row.requests for row in rows.values())
    assert report.get.done == report.get.chunks
    assert report.put.done == report.put.chunks
    assert report.lookup.bytes == 0
    assert report.get.bytes == 4096 * report.get.done
    assert report.wrong_bytes == 0
    assert len(store.keys()) == 20 + report.put.done


def test_only_what_is_asked_for() -> None:
    report = load(get=0, put=0, lookup=1)
    assert (report.get.requests, report.put.requests, report.lookup.requests) == (0, 0, 60)


def test_the_same_seed_is_the_same_mix() -> None:
    assert load(seed=3, depth=1).get.requests == load(seed=3, depth=1).get.requests


class Wrong(FakeClient):
    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        got = super().get(keys, targets)
        targets[0].region.view[targets[0].offset] ^= 1
        return got


def test_wrong_bytes_are_counted() -> None:
    report = load(Wrong, get=1, put=0, lookup=0)
    assert report.wrong_bytes == 60


def test_wrong_bytes_are_not_looked_for_unless_asked() -> None:
    assert load(Wrong, get=1, put=0, lookup=0, verify=False).wrong_bytes == 0


class BusyAtFirst(FakeClient):
    """The first three puts of each client are refused, those of the working set among them."""

    refused = 0

    def put(self, keys: Sequence[bytes], sources: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        if self.refused < 3:
            self.refused += 1
            raise Busy("full", 0.0)
        return super().put(keys, sources)


def test_busy_is_counted_and_the_working_set_is_put_all_the_same() -> None:
    report = load(BusyAtFirst, depth=1)
    assert report.busy == 3
    assert report.get.done == report.get.chunks


class Lost(FakeClient):
    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        raise Unavailable("gone")


def test_a_lost_store_ends_the_run_with_its_error() -> None:
    with pytest.raises(Unavailable, match="gone"):
        load(Lost, depth=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"depth": 0}, "depth"), ({"batch": 0}, "batch"), ({"batch": 4096, "chunk_bytes": 2**30}, "batch"),
        ({"chunks": 0}, "chunks"), ({"get": 0, "put": 0, "lookup": 0}, "shares"), ({"get": -1}, "shares"),
        ({"duration_s": 0}, "duration"), ({"operations": -1}, "operations"), ({"chunk_bytes": 5}, "bytes per block"),
    ],
)  # fmt: skip
def test_senseless_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        load(**options)
