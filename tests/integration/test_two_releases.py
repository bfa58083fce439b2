"""One pod of two releases: shards, front-ends and clients of the release before among those of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mezzo import Client
from mezzo_server.pod.operating import PodSeen
from mezzo_server.testing import RunningFrontend, RunningShard, running_frontend, running_shard
from tests.integration.etcd_members import find_etcd, running_etcd
from tests.integration.pod_metadata import LOOK_S, PodMetadata
from tests.patience import eventually

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not find_etcd(), reason="there is no etcd, and none could be fetched"),
]

FOLDER = Path(__file__).with_name("older")
KEYS = [b"chunk-%d" % number for number in range(60)]


@contextmanager
def release(*, older: bool) -> Iterator[None]:
    """Of processes that are started within."""
    with pytest.MonkeyPatch.context() as patch:
        if older:
            paths = [str(FOLDER), *[path for path in sys.path if path]]
            patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield


class Pod(PodMetadata):
    def __init__(self, url: str, stack: ExitStack) -> None:
        super().__init__(url)
        self.config = (
            f'[metadata]\nengine = "{url}"\n[pod]\nenabled = true\nlease_s = 5\nslots_log2 = 8\n'
            "ramp_s = 0.5\nasked_s = 2\n"
        )
        self._stack = stack

    def shard(self, name: str, *, older: bool) -> RunningShard:
        config = self.config + f'node = "{name}"\n'
        with release(older=older):
            return self._stack.enter_context(running_shard(devices=["memory:64MiB"], config=config))

    def frontend(self, shard: RunningShard, *, older: bool) -> RunningFrontend:
        with release(older=older):
            return self._stack.enter_context(running_frontend(shard.unix, config=self.config))

    def serves(self, *names: str) -> PodSeen:
        def there() -> PodSeen | None:
            return self.look() if self.states() == dict.fromkeys(names, "serving") else None

        return eventually(there, f"{names} serve", poll_s=LOOK_S)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with running_etcd(tmp_path / "etcd") as cluster, ExitStack() as stack:
        yield Pod(cluster.url("pod"), stack)


def older_lookup(frontend: RunningFrontend, keys: list[bytes]) -> int:
    """How many of the keys a client of the release before finds."""
    command = [sys.executable, "-m", "mezzo.cli", "lookup", "--json", "--server", frontend.grpc]
    with release(older=True):
        done = subprocess.run([*command, *[key.decode() for key in keys]], capture_output=True, check=True)
    prefix: int = json.loads(done.stdout)["prefix"]
    return prefix


def test_shards_front_ends_and_clients_of_two_releases_serve_one_pod(pod: Pod) -> None:
    old, new = pod.shard("old", older=True), pod.shard("new", older=False)
    gates = [pod.frontend(old, older=True), pod.frontend(new, older=False)]
    pod.serves("old", "new")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(gate.grpc, via=via)) for gate in gates for via in ("direct", "proxy")
        ]
        assert clients[0].put(KEYS, [b"%03d" % number for number in range(60)]).stored == 60
        for client in clients:
            targets = [bytearray(3) for _ in KEYS]
            assert client.get(KEYS, targets).count == 60
            assert [int(target) for target in targets] == list(range(60))
        for gate in gates:
            assert older_lookup(gate, KEYS) == 60

        # It grows by a shard of this release, and by one of the release before.
        names = ["old", "new"]
        for name, older in (("newer", False), ("older", True)):
            pod.shard(name, older=older)
            names.append(name)
            seen = pod.serves(*names)
            assert all(shard.slots for shard in seen.shards)
            fresh = [b"%s-%d" % (name.encode(), number) for number in range(60)]
            assert clients[3].put(fresh, [b"x"] * 60).stored == 60
            for client in clients:
                # By way of the older front-end only when that is refused something: shards tell it nothing.
                eventually(lambda: client.lookup(fresh).prefix == 60, "it has the map")  # noqa: B023
                assert client.put(KEYS, [b"%03d" % number for number in range(60)]).failed == 0
                targets = [bytearray(3) for _ in KEYS]
                assert client.get(KEYS, targets).count == 60
                assert [int(target) for target in targets] == list(range(60))
            for gate in gates:
                assert older_lookup(gate, fresh) == 60
