"""Certificates of who calls the metadata: when new ones are taken, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mezzo_server.metadata.trust import LOOK_AGAIN_S, LOOK_S, Refused, Trust, TrustFiles
from tests.contract.certificates import Authority


def issue(folder: Path) -> Trust:
    authority = Authority(folder)
    ours = authority.issue("shard", client=True)
    return Trust(authority.ca, ours.certificate, ours.key)


def test_what_was_replaced_is_taken_once(tmp_path: Path) -> None:
    files = TrustFiles(issue(tmp_path))
    before = files.pem
    assert not files.look()
    trust = issue(tmp_path)
    assert files.look()
    assert not files.look()
    assert files.pem != before
    assert files.pem == tuple(Path(path).read_bytes() for path in trust)


@pytest.mark.parametrize("spoilt", ["ca", "certificate", "key"])
def test_what_does_not_fit_changes_nothing_until_it_does(tmp_path: Path, spoilt: str) -> None:
    trust = issue(tmp_path)
    files = TrustFiles(trust)
    before = files.pem
    fresh = issue(tmp_path)
    path = Path(getattr(fresh, spoilt))
    good = path.read_bytes()
    for bad in (b"nothing", getattr(before, spoilt) if spoilt != "ca" else b""):
        path.write_bytes(bad)
        assert not files.look()
        assert files.pem == before
    path.unlink()
    assert not files.look()
    path.write_bytes(good)
    assert files.look()


def test_it_is_looked_now_and_then_and_sooner_where_nobody_answers(tmp_path: Path) -> None:
    files = TrustFiles(issue(tmp_path))
    assert not files.due(1000.0)  # nothing was read yet
    assert files.pem.ca
    assert files.due(1000.0)
    assert [files.due(1000.0 + LOOK_S - 0.1), files.due(1000.0 + LOOK_S)] == [False, True]
    at = 1000.0 + LOOK_S
    assert not files.due(at + LOOK_AGAIN_S)
    assert files.due(at + LOOK_AGAIN_S, sooner=True)
    assert not files.due(at + LOOK_AGAIN_S + 0.5, sooner=True)


def test_what_cannot_be_read_at_first_is_said(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot read"):
        _ = TrustFiles(Trust(str(tmp_path / "nothing.pem"))).pem
