"""What health tells of what is behind a server, whatever asking it comes to."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from mezzo.errors import Unavailable
from mezzo_server.frontend.admin import Health
from mezzo_server.frontend.numbers import CallNumbers


def test_a_fault_in_asking_is_told_and_asked_again() -> None:
    answers: list[Exception | None] = [None, RuntimeError("a fault"), Unavailable("away"), None]
    told: list[tuple[bool, str]] = []

    async def main() -> None:
        numbers, over = CallNumbers(()), asyncio.Event()

        async def ping(timeout_s: float) -> None:
            if told:
                told[-1] = (numbers.serving, health.reason)
            told.append((False, ""))
            if not answers:
                over.set()
                await asyncio.Event().wait()
            answer = answers.pop(0)
            if answer is not None:
                raise answer

        health = Health(ping, numbers, every_s=0.0, services=("",))
        watching = asyncio.ensure_future(health.watch())
        async with asyncio.timeout(10):
            await over.wait()
        assert not watching.done()
        watching.cancel()
        await asyncio.wait((watching,))
        check = health_pb2.HealthCheckRequest(service="")
        assert (await health.servicer.Check(check, None)).status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(main())
    serving, reasons = zip(*told[:4], strict=True)
    assert serving == (True, False, False, True)
    assert reasons == ("", "a fault of ours: RuntimeError('a fault')", "away", "")
