"""What goes wrong in a run, and when: chosen from the seed. Each fault undoes itself after a while.

A run has a choice of kinds (*swarm*: rarely all of them, so that one does not hide what another would find).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.metadata.engine import Write
from mezzo_server.pod.records import drain_key
from mezzo_server.testing.simulation.options import KINDS

if TYPE_CHECKING:
    from mezzo_server.testing.simulation.pod import Pod
    from mezzo_server.testing.simulation.shard import Shard

CHOICES = (2, 3, 4, 6, 10, 23)
"""how many kinds a run has"""
LIES = (
    FaultKind.ROTTEN_READ,
    FaultKind.STALE_READ,
    FaultKind.MISDIRECTED_READ,
    FaultKind.ROTTEN_WRITE,
    FaultKind.MISDIRECTED_WRITE,
    FaultKind.LOST_WRITE,
    FaultKind.TORN_WRITE,
    FaultKind.EIO_READ,
)


class Faults:
    """Owner of the choice of kinds, and of what is still wrong."""

    def __init__(self, pod: Pod, seed: str, count: int, kinds: tuple[str, ...] | None) -> None:
        self._pod = pod
        self._random = random.Random(f"{seed}/faults")
        self.kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power": self._power,
            "pause": self._pause,
            "hang": self._hang,
            "cut": self._cut,
            "cut_metadata": self._cut_metadata,
            "reset": self._reset,
            "slow_network": self._slow_network,
            "slow_device": self._slow_device,
            "lies": self._lies,
            "away": self._away,
            "slow_metadata": self._slow_metadata,
            "lost_answers": self._lost_answers,
            "compact": self._compact,
            "leader": self._leader,
            "clock": self._clock,
            "join": self._join,
            "drain": self._drain,
            "leave": self._leave,
            "stop": self._stop,
            "frontend": self._frontend,
            "pause_client": self._pause_client,
            "erase": self._erase,
        }
        names = [name for name in KINDS if name in self.kinds]
        if kinds is None:
            chosen = self._random.sample(names, self._random.choice(CHOICES))
        else:
            chosen = [name for name in names if name in kinds]
        self.chosen = chosen
        self.count = count

    def schedule(self, begin: float, end: float) -> None:
        """Strike so often between two times."""
        if not self.chosen:
            return
        for _ in range(self.count):
            name = self._random.choice(self.chosen)
            self._pod.clockwork.at(self._random.uniform(begin, end), self.kinds[name])

    # -- helpers

    def _shard(self) -> Shard:
        return self._random.choice(self._pod.shards)

    def _say(self, what: str) -> None:
        self._pod.trace.add(self._pod.clockwork.now, "FAULT", what)

    def _after(self, seconds: float, undo: Callable[[], None]) -> None:
        self._pod.clockwork.after(
            min(seconds, max(0.0, self._pod.faults_end - self._pod.clockwork.now)), undo
        )

    def _long_s(self) -> float:
        """Mostly less than a lease, sometimes more."""
        lease_s = self._pod.lease_s
        return self._random.choice((0.05, 0.5, 0.5 * lease_s, 0.98 * lease_s, 1.6 * lease_s))

    # -- shards

    def _kill(self) -> None:
        shard = self._shard()
        if shard.life is not None:
            shard.kill()
            shard.start_later(self._random.choice((0.1, 0.5, 2.0)))

    def _power(self) -> None:
        shard = self._shard()
        if shard.host.up:
            self._pod.witness(shard).power_fails(shard.life)
            shard.cut_power()
            self._after(self._long_s(), shard.power_on)

    def _stop(self) -> None:
        shard = self._shard()
        if shard.life is not None:
            shard.stop()

    def _pause(self) -> None:
        shard, seconds = self._shard(), self._long_s()
        life = shard.life
        if life is not None and not life.loop.paused:
            self._say(f"{shard.name} is paused for {seconds:.2f} s")
            life.loop.pause()
            life.thread.pause()
            self._after(seconds, life.loop.resume)
            self._after(seconds, life.thread.resume)

    def _hang(self) -> None:
        shard, seconds = self._shard(), self._long_s()
        life = shard.life
        if life is not None and not life.loop.paused:
            self._say(f"the loop of {shard.name} hangs for {seconds:.2f} s")
            life.loop.pause()
            self._after(seconds, life.loop.resume)

    def _slow_device(self) -> None:
        shard, seconds = self._shard(), self._random.uniform(1.0, 5.0)
        self._say(f"the device of {shard.name} is 100 times slower for {seconds:.2f} s")

        def set_to(slowness: float) -> None:
            shard.slowness = slowness
            if shard.life is not None:
                shard.life.device.slowness = slowness

        set_to(100.0)
        self._after(seconds, lambda: set_to(1.0))

    def _lies(self) -> None:
        shard = self._shard()
        if self._pod.witness(shard).lies or sum(self._pod.witness(one).lies for one in self._pod.shards):
            return  # one shard that lies is enough for a run
        kind = self._random.choice(LIES)
        part = self._random.choice((0.02, 0.2))
        self._say(f"the device of {shard.name} lies: {kind.value}, {part:.0%}")
        self._pod.witness(shard).device_lies()
        shard.lie([Fault(kind, probability=part, within=self._pod.chunks_within(shard))])
        self._after(4.0, shard.be_honest)

    # -- the network

    def _cut(self) -> None:
        hosts = [shard.host.name for shard in self._pod.shards]
        hosts += [worker.host.name for worker in self._pod.clients] + list(self._pod.frontend_hosts())
        one, other = self._random.sample(hosts, 2)
        self._sever(one, other)

    def _cut_metadata(self) -> None:
        hosts = [shard.host.name for shard in self._pod.shards] + list(self._pod.frontend_hosts())
        self._sever(self._random.choice(hosts), self._pod.metadata.host.name)

    def _sever(self, one: str, other: str) -> None:
        seconds = self._long_s()
        both = self._random.random() < 0.5
        network = self._pod.network
        self._say(f"cut {one} {'<->' if both else '->'} {other} for {seconds:.2f} s")
        pairs = [(one, other), (other, one)] if both else [(one, other)]
        for pair in pairs:
            network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                network.mend(*pair)

        self._after(seconds, mend)

    def _reset(self) -> None:
        count = self._pod.network.reset_some(self._random.choice((0.2, 1.0)))
        self._say(f"{count} streams break")

    def _slow_network(self) -> None:
        network, name = self._pod.network, self._shard().host.name
        self._say(f"the network of {name} is slow")
        network.slow[name] = self._random.choice((0.05, 0.4))

        def fast() -> None:
            network.slow.pop(name, None)

        self._after(self._random.uniform(1.0, 4.0), fast)

    # -- the metadata

    def _away(self) -> None:
        metadata, seconds = self._pod.metadata, self._long_s()
        slow_s = self._random.choice((0.0, 0.0, 1.0))

        def go() -> None:
            self._say(f"the metadata are away for {seconds:.2f} s")
            metadata.away += 1
            metadata.break_off()
            metadata.slow_s = 0.0
            self._after(seconds, back)

        def back() -> None:
            metadata.away -= 1

        if slow_s:
            # Who is about to go is often slow before.
            self._say("the metadata are slow")
            metadata.slow_s = 1.5
        self._after(slow_s, go)

    def _slow_metadata(self) -> None:
        metadata = self._pod.metadata
        metadata.slow_s = self._random.choice((0.1, 1.0))
        self._say("the metadata are slow")

        def fast() -> None:
            metadata.slow_s = 0.0

        self._after(self._random.uniform(1.0, 4.0), fast)

    def _lost_answers(self) -> None:
        metadata = self._pod.metadata
        metadata.lost_part = self._random.choice((0.1, 0.5))
        self._say("answers of the metadata are lost")

        def found() -> None:
            metadata.lost_part = 0.0

        self._after(self._random.uniform(1.0, 4.0), found)

    def _compact(self) -> None:
        self._say("the metadata are compacted")
        self._pod.metadata.compact()
        if self._random.random() < 0.5:
            self._pod.metadata.break_off()

    def _leader(self) -> None:
        if not self._pod.metadata.away:
            self._say("the metadata have another leader")
            self._pod.metadata.another_leader()

    # -- clocks

    def _clock(self) -> None:
        by_s = self._random.choice((-600.0, 600.0, -2.0, 2.0))
        frontend = self._random.choice(list(self._pod.frontends.values()))
        self._say(f"the wall clock of {frontend.name} jumps by {by_s:g} s")
        frontend.wall_off_s += by_s
        if frontend.process is not None:
            frontend.process.wall_off_s += by_s

    # -- who is there

    def _join(self) -> None:
        self._pod.add_shard()

    def _drain(self) -> None:
        shard = self._shard()
        if not shard.id or shard.left:
            return
        metadata, key = self._pod.metadata, drain_key(shard.id)
        self._say(f"{shard.name} is drained")
        metadata.write([Write(key, b'{"since_s":0}')])
        self._after(self._random.uniform(1.0, 8.0), lambda: metadata.write([Write(key, None)]))

    def _leave(self) -> None:
        there = [shard for shard in self._pod.shards if not shard.left]
        if len(there) > 2:
            shard = self._random.choice(there)
            self._say(f"{shard.name} leaves for good")
            shard.stop(for_good=True)

    def _frontend(self) -> None:
        frontend = self._random.choice(list(self._pod.frontends.values()))
        frontend.kill()
        self._after(self._random.uniform(0.1, 3.0), frontend.start)

    # -- clients

    def _pause_client(self) -> None:
        client, seconds = self._random.choice(self._pod.clients), self._long_s()
        process = client.worker.process
        if not process.paused:
            self._say(f"{process.name} is paused for {seconds:.2f} s")
            client.worker.paused()
            process.pause()
            self._after(seconds, process.resume)

    # -- tenants

    def _erase(self) -> None:
        space = self._random.choice(self._pod.spaces.all)
        self._say(f"the chunks of {space.tenant} are erased")
        self._pod.spaces.erase(space)
