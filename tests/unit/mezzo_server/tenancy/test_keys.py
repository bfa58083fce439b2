"""Tenants' keys: wrapped, bound to their tenant, and master keys in files that only their owner reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo_server.tenancy.keys import (
    MasterKey,
    MasterKeys,
    new_tenant_key,
    read_master_key,
    read_master_keys,
    write_master_key,
)
from mezzo_server.tenancy.model import TenantKey

TENANT, OTHER = b"t" * 16, b"o" * 16


def test_a_key_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    made = write_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_master_key(path).id == made.id
    with pytest.raises(InvalidArgument, match="never overwritten"):
        write_master_key(path)
    assert read_master_key(path).id == made.id


def test_half_of_a_key_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "master.key"
    monkeypatch.setattr("mezzo_server.tenancy.keys.os.fsync", full)
    with pytest.raises(InvalidArgument, match="No space"):
        write_master_key(path)
    monkeypatch.undo()
    assert write_master_key(path).id == read_master_key(path).id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no file of a master key"),
        ("mezzo-master-key-1:", "no file of a master key"),
        ("mezzo-master-key-1:AAAA", "no file of a master key"),
        ("mezzo-master-key-1:!!!!", "no file of a master key"),
        ("x" * 5000, "no file of a master key"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidArgument, match=says) as told:
        read_master_key(path)
    assert str(path) in str(told.value)
    assert text[19:] == "" or text[19:] not in str(told.value), "what may be a key is not told"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    write_master_key(path)
    path.chmod(0o640)
    with pytest.raises(InvalidArgument, match="chmod 600"):
        read_master_key(path)
    with pytest.raises(InvalidArgument, match="No such file"):
        read_master_keys(str(tmp_path / "none"))


def test_former_keys_need_one_in_use(tmp_path: Path) -> None:
    path = tmp_path / "former"
    write_master_key(path)
    with pytest.raises(InvalidArgument, match="master_key"):
        read_master_keys("", [str(path)])
    assert not read_master_keys("")


def test_what_is_wrapped_is_unwrapped_for_its_tenant_only() -> None:
    master = MasterKey(os.urandom(32))
    key = new_tenant_key(os.urandom)
    kept = master.wrap(TENANT, key, os.urandom)
    assert key not in kept.wrapped
    assert master.unwrap(kept) == key
    moved = TenantKey(tenant_id=OTHER, master_id=kept.master_id, wrapped=kept.wrapped)
    assert master.unwrap(moved) is None
    assert MasterKey(os.urandom(32)).unwrap(kept) is None


@given(at=st.integers(0, 59), bit=st.integers(0, 7))
def test_a_changed_key_is_none(at: int, bit: int) -> None:
    master = MasterKey(bytes(32))
    kept = master.wrap(TENANT, b"k" * 32, os.urandom)
    wrapped = bytearray(kept.wrapped)
    wrapped[at] ^= 1 << bit
    assert master.unwrap(TenantKey(tenant_id=TENANT, master_id=master.id, wrapped=bytes(wrapped))) is None


def test_a_former_master_key_still_unwraps() -> None:
    former, current = MasterKey(b"a" * 32), MasterKey(b"b" * 32)
    kept = [former.wrap(TENANT, b"1" * 32, os.urandom), current.wrap(OTHER, b"2" * 32, os.urandom)]
    keys, failed = MasterKeys([current, former]).unwrap_all(kept)
    assert keys == {TENANT: b"1" * 32, OTHER: b"2" * 32}
    assert failed == []
    keys, failed = MasterKeys([current]).unwrap_all(kept)
    assert keys == {OTHER: b"2" * 32}
    assert failed == [TENANT]


def test_what_was_opened_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard takes every catalog in its loop, and there may be thousands of tenants."""
    asked: list[bytes] = []
    unwrap = MasterKey.unwrap
    monkeypatch.setattr(
        MasterKey, "unwrap", lambda self, kept: asked.append(kept.tenant_id) or unwrap(self, kept)
    )
    master, masters = MasterKey(b"m" * 32), MasterKeys([MasterKey(b"m" * 32)])
    first, second = master.wrap(TENANT, b"1" * 32, os.urandom), master.wrap(OTHER, b"2" * 32, os.urandom)
    masters.unwrap_all([first])
    keys, _ = masters.unwrap_all([first, second])
    assert keys == {TENANT: b"1" * 32, OTHER: b"2" * 32}
    assert asked == [TENANT, OTHER]
    # Another record is another key, and one that is gone is forgotten.
    again = master.wrap(TENANT, b"3" * 32, os.urandom)
    assert masters.unwrap_all([again])[0] == {TENANT: b"3" * 32}
    assert masters.unwrap_all([second])[0] == {OTHER: b"2" * 32}
    assert asked == [TENANT, OTHER, TENANT, OTHER]


def test_without_a_master_key_it_says_what_to_do() -> None:
    none = MasterKeys()
    assert not none
    with pytest.raises(InvalidArgument, match="mezzo key new"):
        _ = none.current
