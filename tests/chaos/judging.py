"""One run of a pod under load and faults, and what must be true of it afterwards."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mezzo.errors import MezzoError
from tests.chaos.faults import Faults
from tests.chaos.history import History, Purge
from tests.chaos.lab import CAPACITY_BYTES, ERASABLE, LEASE_S, SHARDS, Lab
from tests.chaos.load import Load, Teller, some_keys
from tests.patience import eventually

HEAL_S = 30.0
"""After the last fault the pod is whole within it. On a machine that has nothing else to do: some seconds."""
ERASED_S = LEASE_S + 5.0
"""So long after a purge was answered nothing of before it is read: a shard hears of it within 5 s, or serves nothing."""
PURGE_EVERY_S = 2.0


def hurt(lab: Lab, *, seed: int, seconds: float, together: int = 2, clients: int = 4) -> dict[str, object]:
    """Hurt a pod by so many faults at a time, and judge it; figures for people.

    Raises:
        AssertionError: what is wrong, with all that is needed to understand it.
    """
    history, faults = History(), Faults(lab, seed)
    slot_of, watcher = lab.slots(), lab.watcher()
    load = Load(history, seed)
    watcher.start()
    try:
        for number in range(clients):
            via = ("direct", "proxy")[number % 2]
            first = number // 2 % len(lab.addresses)
            load.start(f"{via} {number}", partial(lab.client, via, first=first))
        purging = Purging(lab, history)
        erasing = partial(lab.client, "direct", namespace=ERASABLE)
        load.start("erasing", erasing, purging, erasable=True)
        faults.run(seconds, together)
        heal_s = lab.heal()
        served_s = _serves(lab)
    finally:
        load.stop()
        looks = watcher.stop()
        lab.resume()
    wrong = [*history.faults]
    wrong += [f"{each.late_s:.1f} s too late: {each}" for each in history.late()]
    wrong += history.refusals(looks, slot_of, lab.copies)
    wrong += history.resurrected(ERASED_S)
    if heal_s + served_s > HEAL_S:
        wrong.append(f"it took {heal_s:.1f} s to be whole, and {served_s:.1f} s more to serve everybody")
    for device, used_bytes in lab.used_bytes().items():
        if used_bytes > CAPACITY_BYTES // SHARDS + (64 << 10):
            wrong.append(f"{device} takes {used_bytes} bytes")
    if wrong:
        raise AssertionError(
            "\n".join([f"seed {seed}:", *wrong, "faults:", *faults.log, _keep(lab, history)])
        )
    epochs = {look.pod_map.epoch for look in looks}
    return {
        **history.figures(),
        "faults": len([line for line in faults.log if " end of " not in line]),
        "unserved": history.unserved(),
        "epochs": len(epochs),
        "heal_s": round(heal_s, 1),
        "served_s": round(served_s, 1),
    }


class Purging:
    """What the client of the erasable namespace does: puts, gets, and empties it now and then."""

    def __init__(self, lab: Lab, history: History) -> None:
        self._lab = lab
        self._history = history
        self._due_s = PURGE_EVERY_S

    def __call__(self, teller: Teller, source: random.Random, since_s: float) -> None:
        keys = some_keys(source, teller.run, 0)
        if source.random() < 0.4:
            teller.put(keys)
        else:
            teller.get(keys)
        if since_s < self._due_s:
            return
        self._due_s = since_s + PURGE_EVERY_S
        begin = time.monotonic()
        try:
            self._lab.purge()
        except MezzoError:
            return
        self._history.purges.append(Purge(begin, time.monotonic()))


def _serves(lab: Lab) -> float:
    """Wait until clients of every kind get everything done; how long that took."""
    began = time.monotonic()
    for first, via in enumerate(("direct", "proxy")):
        with lab.client(via, first=first) as client:
            teller = Teller(client, "healed", History())
            numbers = itertools.count()
            eventually(partial(_is_served, teller, numbers), f"a client is served that is {via}")
    return time.monotonic() - began


def _is_served(teller: Teller, numbers: Iterator[int]) -> bool:
    """Whether all shards take chunks, and give them back."""
    number = next(numbers)
    keys = [f"{teller.run}-{number}-{each}".encode() for each in range(32)]
    put = teller.put(keys)
    got, count = teller.get(keys)
    return not put.failed and not got.failed and count == len(keys)


def _keep(lab: Lab, history: History) -> str:
    """The whole history and the logs, in a folder that `MEZZO_CHAOS_KEEP` names; else the logs' last lines."""
    keep = os.environ.get("MEZZO_CHAOS_KEEP")
    if not keep:
        return lab.logs()
    folder = Path(keep)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calls").write_text("\n".join(map(str, history.calls)))
    lines = [f"{key.decode()} {operation}" for key, operation in history.operations]
    (folder / "operations").write_text("\n".join(lines))
    for process in (*(node.process for node in lab.nodes), *lab.frontends):
        (folder / f"log-{process.log.parent.name}").write_bytes(process.log.read_bytes())
    return f"the history and the logs are in {folder}"
