"""R7: the metadata engine is away for a minute, in virtual time. Known tenants go on, changes fail fast, it heals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import Unavailable
from mezzo_server.metadata.engine import Change
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.shard.directory import NoSuchNamespace
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import CATALOG
from mezzo_server.tenancy.following import Following, Load, Wait, Watch
from tests.unit.mezzo_server.tenancy.rig import AwayEngine, Tenancy
from tests.unit.mezzo_server.test_shard_tenancy import Node, put, there

OUTAGE_S = 60
HEALS_S = 5


class Followed:
    """A node whose shard follows an engine that can be away. Time passes in `play` only."""

    def __init__(self) -> None:
        self.node = Node()
        memory = self.node.tenancy.engine
        assert isinstance(memory, MemoryEngine)
        self.engine = AwayEngine(memory)
        self.changing = Tenancy(self.engine)
        self.following = Following(lambda key, why: None, lambda: 1.0)
        self.now = 0.0
        self.attempts = 0
        self.play(0.0)

    def play(self, until: float) -> None:
        """What a watcher does until then; its watch is asked at every step."""
        while True:
            step = self.following.next_step(self.now)
            if isinstance(step, Wait):
                if self.now + step.seconds > until:
                    break
                self.now += step.seconds
                continue
            self.attempts += 1
            try:
                self.took(self.ask(step))
            except Unavailable:
                self.following.failed(self.now)
                continue
            if isinstance(step, Watch):
                break
        self.now = max(self.now, until)

    def ask(self, step: Load | Watch) -> Catalog | None:
        if isinstance(step, Load):
            return self.following.loaded(self.node.do(self.engine.scan(CATALOG)), self.now)
        return self.following.changed(self.node.do(self.changes(step.after)), self.now)

    async def changes(self, after: int) -> list[Change]:
        """Those that a watch would tell now."""
        scan = await self.engine.scan(CATALOG)
        return [Change(e.key, e.value, e.revision) for e in scan.entries if e.revision > after]

    def took(self, catalog: Catalog | None) -> None:
        if catalog is not None:
            self.node.shard.service.catalog_is(catalog)
            self.node.shard.settle()


@pytest.fixture
def followed() -> Iterator[Followed]:
    followed = Followed()
    yield followed
    followed.node.shard.close()


def test_an_outage_of_a_minute(followed: Followed) -> None:
    node, registry = followed.node, followed.changing.registry
    client = node.client()
    put(client)
    before = node.shard.service.catalog
    followed.engine.away = True
    began, attempts = followed.now, followed.attempts
    for second in range(1, OUTAGE_S + 1):
        followed.play(began + second)
        key = b"%d" % second
        put(client, [key])
        assert there(client, [b"k1", b"k2", key]) == 3
        assert there(node.client(), [key]) == 1, "and new sessions of known tenants as well"
        for change in (
            registry.create_tenant("new"),
            registry.open_namespace(node.tenant.id, "new"),
            registry.purge_namespace(node.tenant.id, "default"),
            registry.delete_tenant("acme"),
            registry.credentials.issue(node.tenant.id, ["read"]),
        ):
            calls = followed.engine.calls
            with pytest.raises(Unavailable):
                node.do(change)
            assert followed.engine.calls == calls + 1, "it fails at its first call"
    assert node.shard.service.catalog is before
    assert followed.following.numbers(followed.now)["catalog_age_s"] == followed.now - began
    assert followed.attempts - attempts < 2 * OUTAGE_S, "who is away is not hammered"
    with pytest.raises(NoSuchNamespace):
        node.shard.service.directory.find(client.session.guest.principal, "new", None)

    followed.engine.away = False
    node.do(registry.purge_namespace(node.tenant.id, "default"))
    made = node.do(registry.open_namespace(node.tenant.id, "new"))
    followed.play(followed.now + HEALS_S)
    assert there(client) == 0, "what was changed since is in force"
    assert node.hello("new").session.place.namespace == made
    assert followed.following.numbers(followed.now)["catalog_age_s"] <= HEALS_S


def test_a_tenant_deleted_behind_its_back(followed: Followed) -> None:
    """What others wrote while this shard was cut off is heeded as soon as it is not."""
    node = followed.node
    client = node.client()
    put(client)
    followed.engine.away = True
    followed.play(10.0)
    node.do(node.registry.delete_tenant("acme"))
    followed.play(OUTAGE_S)
    assert there(client) == 2
    followed.engine.away = False
    followed.play(OUTAGE_S + HEALS_S)
    assert client.closed
    assert node.shard.store.report().chunks == 0
