"""TLS of a shard: its threads, and the handshakes of those who are not clients yet."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from mezzo_server.config import TlsConfig
from mezzo_server.shard.tls_pipe import TlsPipe
from mezzo_server.shard.tls_reasons import REASONS
from mezzo_server.shard.tls_thread import CipherThread
from mezzo_server.tls.certificates import Certificates, certificate_numbers, opened

if TYPE_CHECKING:
    from mezzo_server.shard.runtime import Runtime

log = structlog.get_logger("mezzo.tls")


class TlsServer:
    """Owner of the certificates and the threads. All methods are for the loop."""

    def __init__(self, config: TlsConfig, *, now: Callable[[], float], clock_s: Callable[[], float]) -> None:
        """Without a certificate in ``config`` it serves nobody. ``clock_s``: Unix time.

        Raises:
            InvalidArgument: a certificate that cannot be used.
        """
        self._config = config
        self._now = now
        self._certificates: Certificates | None = opened(config, clock_s)
        self._threads: list[CipherThread] = []
        self._shaking = 0
        self._waiting: list[Callable[[], None]] = []
        self._handshakes = 0
        self._failures: Counter[str] = Counter()

    def start(self, runtime: Runtime) -> None:
        """Start the threads."""
        if self._certificates is not None:
            self._threads = [
                CipherThread(number, runtime.from_thread, self._now) for number in range(self._config.threads)
            ]
            for thread in self._threads:
                thread.start()

    def stop(self) -> None:
        """Stop the threads; what connections over TLS still do is done at once then."""
        for thread in self._threads:
            thread.stop()

    def close(self) -> None:
        """Look at certificates no more."""
        if self._certificates is not None:
            self._certificates.stop()

    @property
    def full(self) -> bool:
        """Whether no further handshake may begin now; `when_room` tells."""
        return self._shaking >= self._config.handshakes_max

    def when_room(self, step: Callable[[], None]) -> None:
        """Call ``step`` once, when a handshake has ended."""
        self._waiting.append(step)

    def shake(self, sock: socket.socket, peer: str, done: Callable[[TlsPipe], None]) -> None:
        """Begin a handshake on ``sock``, which is the thread's from now on; ``done`` if it went well."""
        if self._certificates is None or not self._threads:
            sock.close()
            return
        thread = min(self._threads, key=lambda each: each.connections)
        self._shaking += 1

        def shaken(pipe: TlsPipe) -> None:
            self._shaking -= 1
            if pipe.failure:
                self._failures[pipe.failure] += 1
                thread.connections -= 1
                log.info("handshake failed", peer=peer, reason=pipe.failure, error=pipe.error)
            else:
                self._handshakes += 1
                done(pipe)
            waiting, self._waiting = self._waiting, []
            for step in waiting:
                step()

        deadline = self._now() + self._config.handshake_timeout_s
        thread.add(TlsPipe(thread, sock, peer, self._certificates.context, deadline, shaken))

    def ended(self, pipe: TlsPipe) -> None:
        """A connection over TLS is no more."""
        pipe.thread.connections -= 1

    def numbers(self) -> dict[str, int | float]:
        """For the metrics."""
        told: dict[str, int | float] = {
            "tls_connections": sum(thread.connections for thread in self._threads) - self._shaking,
            "tls_handshakes": self._handshakes,
            "tls_handshakes_in_progress": self._shaking,
            "tls_faults": sum(thread.faults for thread in self._threads),
            **certificate_numbers(self._certificates),
        }
        told.update({f"tls_handshake_failures_{reason}": self._failures[reason] for reason in REASONS})
        return told
