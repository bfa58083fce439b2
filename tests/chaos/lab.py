"""A pod of real processes to be hurt: an etcd of three members, two metadata services, two nodes of two shards, two more
front-ends.

Node "a" is reached over TCP only, and only through links that can be cut; node "b" over shared memory as well.  Both nodes
reach the metadata through links of their own: "a" the etcd itself, "b" the metadata services.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from mezzo import Client
from mezzo.errors import MezzoError, Unavailable
from mezzo.frontend.via import Via
from mezzo.placement.slots import namespace_seed, slot_of
from mezzo_server.metadata.opening import make_engine
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing import (
    RunningFrontend,
    RunningNode,
    RunningProcess,
    running_frontend,
    running_node,
)
from tests.chaos.cutting import Cutter, Link, cutting
from tests.chaos.epochs import Watcher
from tests.integration.etcd_members import Cluster, Member, free_ports, running_etcd
from tests.integration.metadata_replicas import made_replicas
from tests.integration.pod_metadata import LOOK_S, PodMetadata
from tests.patience import eventually

T = TypeVar("T")
LEASE_S = 4
SLOTS_LOG2 = 8
ASKED_S = 2
SHARDS = 2
CAPACITY_BYTES = 128 << 20
NODES = ("a", "b")
FOLDER = "pod"
ERASABLE = "erasable"


class Node:
    """A node, with the links between it and the rest."""

    def __init__(self, name: str, process: RunningNode, engine: list[Link], shards: list[Link]) -> None:
        self.name = name
        self.process = process
        self.engine = engine
        """to each member of the etcd, or each metadata service"""
        self.shards = shards
        """to its shards; none where clients reach them directly"""

    def __repr__(self) -> str:
        return f"node {self.name}"

    def pid_of(self, part: str) -> int:
        """Of the process that was ready last under this name."""
        return self.process.pid_of(part)

    def signal(self, part: str, number: signal.Signals) -> bool:
        """Send a signal to a part; whether it was there."""
        try:
            os.kill(self.pid_of(part), number)
        except (ProcessLookupError, MezzoError):
            return False
        return True


class Lab(PodMetadata):
    """The pod. Made by `running_lab`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.cutter: Cutter = stack.enter_context(cutting())
        self.etcd: Cluster = stack.enter_context(running_etcd(folder / "etcd", 3))
        super().__init__(self.etcd.url(FOLDER))  # nobody cuts us off from it
        self.secret = folder / "secret"
        self.secret.write_text("s" * 32)
        self.services = made_replicas(2, self.url, folder, self.secret)
        ports = dict(zip(NODES, free_ports(len(NODES), SHARDS), strict=True))
        doors = dict(zip(NODES, free_ports(len(NODES), 2), strict=True))  # and one for its administration
        made: list[Any] = []

        def enter(manager: Any) -> Any:
            process = manager.__enter__()
            made.append(manager)
            return process

        stack.callback(lambda: at_once([lambda each=each: each.__exit__(None, None, None) for each in made]))  # type: ignore[misc]
        started = at_once(
            [
                *(lambda each=each: each.start() for each in self.services),  # type: ignore[misc]
                *(lambda name=name: self._node(name, ports[name], enter) for name in NODES),  # type: ignore[misc]
                *(lambda name=name: enter(self._frontend(ports[name], doors[name])) for name in NODES),  # type: ignore[misc]
            ]
        )
        self.nodes: list[Node] = started[2:4]
        self.frontends: list[RunningFrontend] = started[4:]
        self.copies = 1
        """that are kept of each chunk"""
        self._reviving: dict[RunningProcess, threading.Thread] = {}
        stack.callback(self._end)
        # Known to everybody before anything is hurt.
        for namespace in ("default", ERASABLE):
            with self.client("direct", namespace=namespace) as client:
                eventually(lambda: _is_there(client), f"the namespace {namespace}")

    # Making it.

    def _config(self, url: str) -> str:
        return (
            f'[metadata]\nengine = "{url}"\n[supervisor]\nbackoff_s_max = 0.5\n'
            f"[pod]\nenabled = true\nlease_s = {LEASE_S}\nslots_log2 = {SLOTS_LOG2}\nramp_s = 0\nasked_s = {ASKED_S}\n"
        )

    def _frontend(self, port: int, door: int) -> Any:
        """One that stands alone. It finds all shards by the metadata, whatever becomes of the one at this port."""
        return running_frontend(
            f"tcp://127.0.0.1:{port}",
            config=self._config(self.url),
            arguments=["--listen", f"127.0.0.1:{door}"],
        )

    def _node(self, name: str, port: int, enter: Callable[[Any], Any]) -> Node:
        folder = self.folder / name
        folder.mkdir()
        behind = self.etcd.members if name == "a" else self.services
        engine = [self.cutter.link(int(each.endpoint.rpartition(":")[2])) for each in behind]
        places = ",".join(f"{link.host}:{link.port}" for link in engine)
        direct, through = f"etcd://{places}/{FOLDER}", f"mezzo://{places}?secret_file={self.secret}"
        told, grpc = free_ports(2, SHARDS)
        config = self._config(direct if name == "a" else through) + f'node = "{name}"\n'
        listen = [f"tcp://127.0.0.1:{port}"]
        links: list[Link] = []
        if name == "a":
            links = [self.cutter.link(port + n, port=told + n) for n in range(SHARDS)]
            config += f'advertise = ["tcp://127.0.0.1:{told}"]\n'
        else:
            listen.append(f"unix://{folder}/s")
        manager = running_node(
            devices=[str(folder / "chunks")],
            capacity=str(CAPACITY_BYTES),
            listen=listen,
            config=config,
            arguments=["--shards", str(SHARDS), "--grpc", f"127.0.0.1:{grpc}"],
        )
        return Node(name, enter(manager), engine, links)

    # What clients need.

    @property
    def addresses(self) -> list[str]:
        """Of all front-ends, in an order of chance that is always the same."""
        return [*(each.grpc for each in self.frontends), *(node.process.grpc for node in self.nodes)]

    def client(self, via: Via, *, first: int = 0, namespace: str = "default") -> Client:
        """A client of all front-ends, which begins with this one."""
        addresses = self.addresses[first:] + self.addresses[:first]
        return Client(addresses, namespace=namespace, via=via)

    # What the metadata say.

    def watcher(self) -> Watcher:
        """Looks at the metadata while the pod is hurt."""
        return Watcher(lambda: make_engine(self.url))

    def is_whole(self) -> bool:
        """Every shard serves, by the present map."""
        try:
            seen = self.look()
        except MezzoError:
            return False
        serving = [shard for shard in seen.shards if shard.state == "serving"]
        return len(serving) == len(NODES) * SHARDS and not seen.behind

    def becomes_whole(self, what: str) -> None:
        """Wait until it is."""
        eventually(self.is_whole, what, poll_s=LOOK_S)

    def slots(self) -> Callable[[bytes], int]:
        """What says the slot of a key of the namespace "default"."""
        seed = namespace_seed(*self.ids())
        return lambda key: slot_of(key, seed, SLOTS_LOG2)

    def keep(self, copies: int) -> None:
        """Keep so many copies of each chunk from now on. Raises MezzoError."""

        async def work(engine: Any) -> None:
            registry = Registry(engine, time.time, os.urandom)
            await registry.set_tenant("default", lambda tenant: replace(tenant, copies=copies))

        self.do(work)
        self.copies = copies

    def purge(self) -> None:
        """Empty the namespace `ERASABLE`. Raises MezzoError."""

        async def work(engine: Any) -> None:
            registry = Registry(engine, time.time, os.urandom)
            await registry.purge_namespace((await registry.tenant("default")).id, ERASABLE)

        self.do(work)

    @property
    def _processes(self) -> list[RunningProcess]:
        return [*self.services, *(node.process for node in self.nodes), *self.frontends]

    # Healing.

    def resume(self) -> None:
        """Whoever stands goes on, and whatever is cut is open."""
        for node in self.nodes:
            for link in (*node.engine, *node.shards):
                link.heal()
            for part in (*(f"shard-{n}" for n in range(SHARDS)), "frontend"):
                node.signal(part, signal.SIGCONT)
            if node.process.is_alive():
                os.kill(node.process.pid, signal.SIGCONT)
        for process in (*self.frontends, *self.services):
            with suppress(MezzoError, ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        for member in self.etcd.members:
            member.signal(signal.SIGCONT)

    def revive(self, process: RunningProcess) -> None:
        """Start it again, without waiting for it: without the metadata a front-end does not come up."""

        def start() -> None:
            with suppress(MezzoError):
                process.start()

        if not self._revives(process) and not process.is_alive():
            process.kill()  # it is to be waited for
            self._reviving[process] = threading.Thread(target=start, name="revive")
            self._reviving[process].start()

    def fell(self, process: RunningProcess) -> None:
        """Kill it, unless it is just being started again: what it is would be known only then."""
        if not self._revives(process):
            process.kill()

    def _revives(self, process: RunningProcess) -> bool:
        thread = self._reviving.get(process)
        return thread is not None and thread.is_alive()

    def heal(self) -> float:
        """Have everything there again, and wait until the pod is whole; how long that took."""
        began = time.monotonic()
        self.resume()
        for member in self.etcd.members:
            restart(member)
        for thread in self._reviving.values():
            thread.join()
        for process in self._processes:
            if not process.is_alive():
                process.kill()  # it is to be waited for
                process.start()
        self.becomes_whole("the pod is whole")
        return time.monotonic() - began

    def _end(self) -> None:
        """At once: where a pod ends as a whole, shards would wait in vain for others to take over."""
        self.resume()
        for thread in self._reviving.values():
            thread.join()
        for process in self._processes:
            process.kill()

    def used_bytes(self) -> dict[str, int]:
        """What each shard's device takes on the disk."""
        files = [path for node in NODES for path in (self.folder / node).glob("chunks*")]
        return {str(path.relative_to(self.folder)): path.stat().st_blocks * 512 for path in files}

    def logs(self) -> str:
        """The last of what the processes said, for who reads a failure."""
        told = []
        for process in self._processes:
            lines = process.log.read_text(errors="replace").splitlines()
            told.append("\n".join([f"== {process!r}", *lines[-40:]]))
        return "\n".join(told)


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all of it in threads; the results, in order. Raises what the first that failed raised, once all have ended."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result() for done in [pool.submit(work) for work in works]]


def _is_there(client: Client) -> bool:
    try:
        return client.lookup([b"key"]).prefix == 0
    except Unavailable:
        return False


def restart(member: Member) -> None:
    """Start a member of the etcd unless it runs."""
    if member.process is None or member.process.poll() is not None:
        member.kill()
        member.start()


@contextmanager
def running_lab() -> Iterator[Lab]:
    """The pod, whole; every process ends with the block, and the folder goes."""
    folder = Path(tempfile.mkdtemp(prefix="mezzo-chaos-"))
    try:
        with ExitStack() as stack:
            lab = Lab(folder, stack)
            lab.becomes_whole("the pod is whole")
            yield lab
    finally:
        shutil.rmtree(folder, ignore_errors=True)
