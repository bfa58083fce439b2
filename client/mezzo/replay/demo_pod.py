"""A pod on one machine, as processes, for the demo: an etcd, nodes of several shards, and a front-end of its own.

Only command lines are used: the server's and etcd's.  Nothing outlives the pod but the folder that it was given.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any, Self

from msgspec import Struct

from mezzo.address import parse
from mezzo.credentials import Bearer
from mezzo.errors import FormatError, MezzoError, Unavailable
from mezzo.placement.pod_map import PodMap, decode_map
from mezzo.replay.metrics import read_metrics
from mezzo.replay.program import Program, own_environment, server_command
from mezzo.statistics import Counters
from mezzo.tls import TLS

ETCD_ATTEMPTS = 5
"""ports that were free a moment ago may be another's by the time that etcd wants them"""
ETCD_START_S = 20.0
FIRST_MAP_S = 60.0
STOP_S = 15.0
POLL_S = 0.02
ASK_S = 5.0
CHUNKS_METRIC = b"mezzo_shard_chunks"
LEASE_S = 4
"""of a shard's membership; 90 s where a pod is not made to be watched"""


class PodSettings(Struct, frozen=True, kw_only=True):
    """What the pod is made of."""

    etcd: str
    """the program"""
    nodes: int = 2
    shards: int = 2
    """of each node"""
    node_bytes: int
    """of each node's device files, together"""
    hot_bytes: int = 0
    """of each node's hot tier"""


class Etcd:
    """One member, with its data in a folder. Owner of the process."""

    def __init__(self, program: str, folder: Path, log: Path) -> None:
        self._program = program
        self._folder = folder
        self._log = log
        self._process: Popen[bytes] | None = None
        self.endpoint = ""
        """host:port for clients"""

    def start(self) -> None:
        """Start it and wait until it takes connections. Raises `Unavailable` if it does not."""
        for _ in range(ETCD_ATTEMPTS):
            if self._attempt():
                return
        raise Unavailable(f"etcd ({self._program}) does not start; {self._log} has what it said")

    def stop(self) -> None:
        """End it. Harmless if it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _attempt(self) -> bool:
        client, peer = _free_ports(2)
        places = {"client": f"http://127.0.0.1:{client}", "peer": f"http://127.0.0.1:{peer}"}
        command = [
            self._program, "--name=demo", f"--data-dir={self._folder}/etcd-{client}",
            f"--listen-client-urls={places['client']}", f"--advertise-client-urls={places['client']}",
            f"--listen-peer-urls={places['peer']}", f"--initial-advertise-peer-urls={places['peer']}",
            f"--initial-cluster=demo={places['peer']}", "--logger=zap",
        ]  # fmt: skip
        # Not on every processor does it start without being told that this is wanted. What the demo
        # loses with the power of the machine is nothing, so it need not wait for the disk.
        environ = {**own_environment(), "ETCD_UNSAFE_NO_FSYNC": "true", "ETCD_UNSUPPORTED_ARCH": ""}
        try:
            with self._log.open("ab") as log:
                self._process = Popen(
                    command, stdin=DEVNULL, stdout=log, stderr=log, env=environ, process_group=0
                )
        except OSError as error:
            raise Unavailable(f"etcd ({self._program}) cannot be run: {error.strerror}") from error
        until = time.monotonic() + ETCD_START_S
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", client), 1):
                self.endpoint = f"127.0.0.1:{client}"
                return True
            time.sleep(POLL_S)
        self.stop()
        return False


class PodNode:
    """One node: its shards, their front-end and the supervisor. Comes back with what its devices hold."""

    def __init__(self, name: str, program: Program, sockets: Sequence[str]) -> None:
        self.name = name
        self.shards = list(sockets)
        """addresses, one of each shard"""
        self.grpc = ""
        """of its front-end"""
        self._metrics: list[str] = []
        self.program = program

    def start(self) -> None:
        """Start it and wait until all its shards are ready. Raises `Unavailable` if they do not get there."""
        ready = self.program.start()
        self.grpc = _frontend_of(ready)
        metrics = ready.get("metrics")
        if isinstance(metrics, dict):
            self._metrics = [str(at) for name, at in metrics.items() if str(name).startswith("shard")]

    def kill(self) -> None:
        """End the supervisor with SIGKILL: the kernel ends all others of the node with it."""
        self.program.kill()

    def chunks(self) -> int:
        """Chunks that its shards have, by their metrics; 0 where they do not answer."""
        found = 0
        for address in self._metrics:
            for line in read_metrics(f"http://{address}/metrics"):
                name, _, value = line.partition(b" ")
                if name == CHUNKS_METRIC:
                    found += int(float(value))
        return found


class DemoPod:
    """The whole of it. Used as a context manager: at its end everything is stopped that runs."""

    def __init__(self, settings: PodSettings, *, folder: Path, sockets: Path, logs: Path) -> None:
        """``folder``: for devices and settings; ``sockets``: for sockets, with a short path; ``logs`` takes what
        the processes write.
        """
        self._settings = settings
        self._folder = folder
        self._sockets = sockets
        self._logs = logs
        self._stack = ExitStack()
        self._gate: Program | None = None
        self.nodes: list[PodNode] = []
        self.gate = ""
        """``grpc://host:port`` of the front-end that belongs to no node"""
        self.pod_map: PodMap | None = None
        """as it was seen last"""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all that runs."""
        with undisturbed():
            self._stack.close()

    @property
    def frontends(self) -> list[str]:
        """Addresses of all front-ends, the nodes' own first."""
        return [*(node.grpc for node in self.nodes), self.gate]

    def look(self) -> PodMap | None:
        """The map that the stand-alone front-end gives out now; None: it has none yet, or does not answer."""
        from mezzo.frontend.link import ProxyLink

        try:
            link = ProxyLink(
                parse(self.gate), TLS(), namespace="default", identity=None, client_name="demo",
                counters=Counters(), now=time.monotonic, timeout_s=ASK_S, bearer=Bearer("", time.monotonic),
            )  # fmt: skip
        except MezzoError:
            return None
        try:
            encoded = link.map_told.encoded
            self.pod_map = decode_map(encoded) if encoded else None
        except FormatError:
            return None
        finally:
            link.end(Unavailable("it was only about the map"))
        return self.pod_map

    def slots(self) -> dict[str, int]:
        """How many slots each node has, by the map that was seen last."""
        found = {node.name: 0 for node in self.nodes}
        if self.pod_map is not None:
            owners = [place.node for place in self.pod_map.shards]
            for index in self.pod_map.table:
                if index < len(owners) and owners[index] in found:
                    found[owners[index]] += 1
        return found

    def await_map(self, well: Callable[[dict[str, int]], bool], wait_s: float) -> bool:
        """Wait for a map in which the nodes' slots are ``well``; whether there was one in time."""
        until = time.monotonic() + wait_s
        while True:
            self.look()
            if well(self.slots()):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.1)

    def _start(self) -> None:
        etcd = Etcd(self._settings.etcd, self._folder, self._logs / "etcd.log")
        self._stack.callback(etcd.stop)
        etcd.start()
        self.nodes = [self._node(etcd, f"node-{number}") for number in range(self._settings.nodes)]
        self._stack.callback(self._stop_all)
        _at_once([node.start for node in self.nodes])
        config = self._write("gate", self._of_all(etcd, "gate") | {
            "frontend": {"listen": "127.0.0.1:0", "shards": [one for node in self.nodes for one in node.shards]},
        })  # fmt: skip
        self._gate = Program(
            "the front-end", server_command("frontend", "--json", "--config", str(config)),
            log=self._logs / "gate.log", own_group=True,
        )  # fmt: skip
        self.gate = _address(self._gate.start().get("listen"))
        if not self.await_map(lambda slots: all(slots.values()), FIRST_MAP_S):
            raise Unavailable(f"there was no map of all nodes after {FIRST_MAP_S:g} s; logs: {self._logs}")

    def _stop_all(self) -> None:
        programs: list[Program] = [each.program for each in self.nodes]
        if self._gate is not None:
            programs.insert(0, self._gate)
        for program in programs:
            program.ask_to_stop()
        for program in programs:
            program.stop(STOP_S)

    def _node(self, etcd: Etcd, name: str) -> PodNode:
        settings = self._settings
        (self._folder / name).mkdir()
        path = f"unix://{self._sockets}/{name}"
        config = self._write(name, self._of_all(etcd, name) | {
            "shard": {
                "listen": [path],
                "devices": [f"{self._folder}/{name}/chunks"],
                "capacity_bytes": settings.node_bytes,
            },
            "shard.hot": {"bytes": settings.hot_bytes},
            "frontend": {"listen": "127.0.0.1:0"},
            "supervisor": {"shards": settings.shards},
        })  # fmt: skip
        program = Program(
            name, server_command("serve", "--json", "--config", str(config)),
            log=self._logs / f"{name}.log", own_group=True,
        )  # fmt: skip
        several = settings.shards > 1
        sockets = [f"{path}.{number}" if several else path for number in range(settings.shards)]
        return PodNode(name, program, sockets)

    def _of_all(self, etcd: Etcd, name: str) -> dict[str, dict[str, Any]]:
        return {
            "metadata": {"engine": f"etcd://{etcd.endpoint}/demo"},
            "admin": {"audit_log": f"{self._folder}/audit.jsonl"},
            # A pod's own pace would outlast the demo.
            "pod": {"enabled": True, "node": name, "lease_s": LEASE_S, "slots_log2": 12, "ramp_s": 0},
            "metrics": dict.fromkeys(("shard", "frontend", "supervisor"), "127.0.0.1:0"),
        }

    def _write(self, name: str, tables: dict[str, dict[str, Any]]) -> Path:
        lines = []
        for table, values in tables.items():
            # What JSON says of texts, numbers and lists of texts, TOML says the same way.
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path = self._folder / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path


@contextmanager
def undisturbed() -> Iterator[None]:
    """For this block Ctrl-C and SIGTERM are ignored: what is taken down is taken down whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled there
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_once(work: Sequence[Callable[[], None]]) -> None:
    """Do all of it at a time. Raises what the first raised that failed."""
    errors: list[BaseException] = []

    def do(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=(one,)) for one in work]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        # What is being started can only be stopped when it has been.
        with undisturbed():
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        raise
    if errors:
        raise errors[0]


def _frontend_of(ready: dict[str, object]) -> str:
    part = ready.get("frontend")
    return _address(part.get("listen") if isinstance(part, dict) else None)


def _address(listen: object) -> str:
    if isinstance(listen, str) and listen:
        return listen if "://" in listen else f"grpc://{listen}"
    raise Unavailable("a front-end did not say where it listens")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
