"""The thread that plans for a pod: the same in a front-end and in a metadata service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import structlog

from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.driving import Driver, machine_seconds
from mezzo_server.pod.membership import KEEP
from mezzo_server.pod.planning import Planning
from mezzo_server.pod.records import Settings
from mezzo_server.pod.view import PodView

log = structlog.get_logger("mezzo.pod")

STOP_S = 5.0


class Planner:
    """Owner of the thread. `start`, then `stop`."""

    def __init__(
        self,
        engine: str,
        lease_s: float,
        settings: Settings | None = None,
        moved: Callable[[PodView], None] | None = None,
    ) -> None:
        """``engine``: as in ``metadata.engine``; ``lease_s``: of the pod's shards; ``settings``: of the pod that is made if
        there is none; ``moved``: called in the thread when there is something new of a pod that has a map.
        """
        self._planning = Planning(settings, _complain, random.random, lease_s * KEEP)
        self._driver = Driver(self._planning, lambda: make_engine(engine), self._look, name="mezzo-plan")
        self._moved = moved
        self._news = 0
        self._epoch = 0

    def start(self) -> None:
        """Follow the pod, and plan for it."""
        self._driver.start()

    async def stop(self) -> None:
        """End the thread. May follow no start."""
        await asyncio.to_thread(self._driver.stop, STOP_S)

    def call(self, work: Callable[[], None]) -> None:
        """Have something done in the thread; see `Driver.call`."""
        self._driver.call(work)

    def numbers(self) -> Mapping[str, int | float]:
        """How the pod is followed; docs/metrics.md lists them."""
        return self._planning.numbers(machine_seconds())

    def _look(self) -> None:
        view = self._planning.view
        if view.plan is None or view.news == self._news:
            return
        self._news = view.news
        if self._moved is not None:
            self._moved(view)
        pod_map = view.plan.pod_map
        if pod_map.epoch != self._epoch:
            self._epoch = pod_map.epoch
            log.info("the pod has another map", epoch=pod_map.epoch, shards=len(pod_map.shards))


def _complain(key: str, why: str) -> None:
    log.error("the pod cannot be planned for", key=key, reason=why)
