"""DEVICES and DEVICE_CHANGE in a session: who may, what is answered, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import (
    DeviceAction,
    DeviceChange,
    DeviceChanged,
    Devices,
    DevicesAre,
    Kind,
)
from mezzo_server.config import ShardConfig
from mezzo_server.shard.device_changes import DeviceChanges
from tests.unit.mezzo_server.shard_harness import MIB, Shard


def at_once(work: Callable[[], None], done: Callable[[], None]) -> None:
    work()
    done()


@pytest.fixture
def shard() -> Iterator[Shard]:
    one = Shard()
    one.service.device_changes = DeviceChanges(one.store, ShardConfig(), at_once, one.poked)
    one.store.membership.changed = one.service.devices_changed
    yield one
    one.close()


def test_only_who_runs_the_server_may(shard: Shard) -> None:
    client = shard.client()
    client.owner = False
    for kind, body in (
        (Kind.DEVICES, Devices()),
        (Kind.DEVICE_CHANGE, DeviceChange(DeviceAction.DRAIN, "memory")),
    ):
        refused = client.fails(kind, body)
        assert refused.code == ErrorCode.DENIED
        assert "own user, or root" in refused.message


def test_devices_are_listed_and_changed(shard: Shard) -> None:
    client = shard.client()
    listed = client.ask(Kind.DEVICES, Devices(), DevicesAre)
    assert [(one.name, one.state) for one in listed.devices] == [("memory", "serving")]
    before = shard.service.leases.bytes_max
    shard.device.name = "first"
    body = DeviceChange(DeviceAction.ADD, "memory:96MiB")
    client.ask(Kind.DEVICE_CHANGE, body, DeviceChanged)
    shard.settle()
    listed = client.ask(Kind.DEVICES, Devices(), DevicesAre)
    assert [one.change_state for one in listed.devices] == ["", "done"]
    assert shard.service.leases.bytes_max >= 2 * before - MIB


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (DeviceChange(99, "memory"), ErrorCode.INVALID, "99 is unknown"),
        (DeviceChange(DeviceAction.DRAIN, "memory"), ErrorCode.INVALID, "the last one"),
        (DeviceChange(DeviceAction.DRAIN, "/x"), ErrorCode.INVALID, "no device /x; it has memory"),
        (DeviceChange(DeviceAction.ADD, ""), ErrorCode.INVALID, "empty"),
        (DeviceChange(DeviceAction.ADD, "x"), ErrorCode.INVALID, "absolute path"),
        (DeviceChange(DeviceAction.ADD, "memory:64MiB"), ErrorCode.INVALID, "segments"),
        (DeviceChange(DeviceAction.ADD, "memory:lots"), ErrorCode.INVALID, "lots"),
        (DeviceChange(DeviceAction.GROW, "memory"), ErrorCode.UNSUPPORTED, "cannot grow"),
        (DeviceChange(DeviceAction.CANCEL, "memory"), ErrorCode.INVALID, "not being drained"),
    ],
)
def test_refusals(shard: Shard, change: DeviceChange, code: ErrorCode, words: str) -> None:
    refused = shard.client().fails(Kind.DEVICE_CHANGE, change)
    assert (refused.code, words in refused.message) == (code, True), refused
    assert len(shard.store.devices) == 1
