"""One authority for all tests over TLS, and clients that trust it."""

from __future__ import annotations

import pytest

from mezzo import TLS
from tests.contract.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whoever wants certificates that change has another."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def trust(authority: Authority) -> TLS:
    """For clients of servers with its certificates."""
    return TLS(ca=authority.ca)
