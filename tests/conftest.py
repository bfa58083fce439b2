"""For all tests: how processes start and on which ports, and Hypothesis that looks at no clock."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from mezzo_server.testing import RunningProcess
from tests.integration.nursery import start

for part in ("SHARD", "FRONTEND", "SUPERVISOR"):
    os.environ.setdefault(f"MEZZO_METRICS_{part}", "127.0.0.1:0")

RunningProcess.starter = staticmethod(start)

SHARES_NOTHING = "tests/simulation/"
"""where each long test may go to any process; elsewhere those of a file share what they start"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may be told apart by `make test-long` (``--dist loadgroup``)."""
    for item in items:
        if item.get_closest_marker("long") and not item.nodeid.startswith(SHARES_NOTHING):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


# How long an example takes is the machine's affair; what hangs ends with pytest's own limit.
settings.register_profile("mezzo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mezzo")
