"""`mezzo doctor` looks at certificates."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mezzo_server.config import TlsConfig
from mezzo_server.doctor.finding import State
from mezzo_server.doctor.tls import examine_tls
from tests.contract.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def of(authority: Authority, name: str, days: float) -> TlsConfig:
    files = authority.issue(name, days=days)
    os.chmod(files.key, 0o600)
    return TlsConfig(certificate=files.certificate, key=files.key)


def test_without_a_certificate_there_is_nothing_to_say() -> None:
    assert list(examine_tls(TlsConfig())) == []


def test_a_good_one_is_named_with_its_end(authority: Authority) -> None:
    (found,) = examine_tls(of(authority, "good", 90))
    assert found.state is State.GOOD
    assert "localhost" in found.seen
    assert "in 90 days" in found.seen


def test_one_that_expires_soon_is_worth_a_word_in_time(authority: Authority) -> None:
    config = of(authority, "soon", 13)
    (found,) = examine_tls(config)
    assert found.state is State.BETTER
    assert "renew" in found.advice
    (before,) = examine_tls(of(authority, "later", 15), time.time)
    assert before.state is State.GOOD


def test_one_that_cannot_be_used_is_broken(authority: Authority) -> None:
    config = of(authority, "broken", -1)
    (found,) = examine_tls(config)
    assert found.state is State.BROKEN
    assert "expired on" in found.seen
    (found,) = examine_tls(of(authority, "early", 90), lambda: time.time() - 2 * 86_400)
    assert "is not valid before" in found.seen
    Path(config.certificate).unlink()
    (found,) = examine_tls(config)
    assert found.state is State.BROKEN
    assert "cannot read" in found.seen


def test_a_key_that_others_may_read(authority: Authority) -> None:
    config = of(authority, "open", 90)
    os.chmod(config.key, 0o644)
    _, found = examine_tls(config)
    assert found.name == "tls.key"
    assert "chmod 600" in found.advice
