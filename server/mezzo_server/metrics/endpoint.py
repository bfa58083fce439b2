"""The HTTP side: ``/metrics`` and ``/healthz``, in threads of their own.

Invariant: nothing here touches the state of the process that it tells about.  It asks ``gather`` for
a sample, which another thread makes (`gathering`), and renders what it got.  Everything is bounded:
scrapes at a time, the time that one may take, the length of a request.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector

from mezzo.errors import Unavailable
from mezzo_server.config import MetricsConfig
from mezzo_server.config.addresses import Address, parse_host_port
from mezzo_server.config.reach import check_reach, metrics_guard
from mezzo_server.metrics.catalog import Sample, catalogue
from mezzo_server.metrics.families import families

SCRAPES_MAX = 8
"""Connections at a time; one more is answered 503 and closed."""
SCRAPE_S_MAX = 10.0
"""A connection that is not done by then is cut off, however it dawdles."""
RECEIVE_S = 5.0
"""A scraper that sends nothing for so long is cut off."""
POLL_S = 0.25


class Collector:
    """What `prometheus_client` asks for the families of one process."""

    def __init__(self, process: str, gather: Callable[[], Sample]) -> None:
        self._metrics = catalogue()[process]
        self._gather = gather

    def collect(self) -> Iterator[Family]:
        """All families, from one sample."""
        return families(self._metrics, self._gather())


class Endpoint:
    """One listening socket and its threads. Owner of both, from `__init__` to `close`."""

    def __init__(
        self,
        address: str,
        process: str,
        gather: Callable[[], Sample],
        healthy: Callable[[], bool] = lambda: True,
        *,
        insecure: bool = False,
    ) -> None:
        """Listen on ``host:port``. ``gather`` and ``healthy`` are called by the threads, and may take 2 s.

        Raises:
            InvalidArgument: no address, or one that other hosts can reach without ``insecure``.
            Unavailable: it is in use or cannot be bound.
        """
        where = parse_host_port(address)
        check_reach(f"metrics.{process}", where, metrics_guard(MetricsConfig(insecure=insecure)))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(process, gather))
        ProcessCollector(registry=registry)
        self._server = _open(where, registry, healthy, process)
        host, port = self._server.socket.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """host:port, with the port that was taken"""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="mezzo-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more; connections are cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_off(0.0)
        self._thread.join()


def _open(where: Address, registry: CollectorRegistry, healthy: Callable[[], bool], process: str) -> _Server:
    try:
        family, _, _, _, bound = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        return _Server(family, bound, registry, healthy)
    except OSError as error:
        raise Unavailable(
            f"metrics.{process}: cannot listen on {where.host}:{where.port}: {error.strerror or error}"
        ) from None


class _Server(ThreadingHTTPServer):
    """A bounded number of threads, none of which lives for long."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self,
        family: int,
        bound: tuple[object, ...],
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
    ) -> None:
        self.address_family = family
        self.registry = registry
        self.healthy = healthy
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__((str(bound[0]), int(str(bound[1]))), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking any name server what we are called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "mezzo", self.server_address[1]

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        """In a thread, if there is one left."""
        if not isinstance(request, socket.socket):
            return
        with self._lock:
            full = len(self._open) >= SCRAPES_MAX
            if not full:
                self._open[request] = time.monotonic()
        if full:
            request.settimeout(0)
            try:
                request.send(
                    b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
                )
            except OSError:
                pass  # he has gone, or does not read: either way he hears no more of us
            super().shutdown_request(request)
            return
        super().process_request(request, client)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """A connection is done."""
        if isinstance(request, socket.socket):
            with self._lock:
                self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Now and then: cut off who takes too long."""
        self.cut_off(SCRAPE_S_MAX)

    def cut_off(self, after_s: float) -> None:
        """End the connections that are older than this; their threads end with an error that nobody sees."""
        limit = time.monotonic() - after_s
        with self._lock:
            late = [request for request, since in self._open.items() if since <= limit]
            for request in late:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended by itself

    def handle_error(self, request: object, client: object) -> None:
        """A scraper that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed behind it."""

    server: _Server
    server_version = "mezzo"
    sys_version = ""
    timeout = RECEIVE_S

    def do_GET(self) -> None:
        """The two pages."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Their heads."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        status, kind = 200, "text/plain; charset=utf-8"
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            page = encode(self.server.registry)
        elif path == "/healthz":
            well = self.server.healthy()
            status = 200 if well else 503
            page = b"ok\n" if well else b"not ready, or it does not answer\n"
        else:
            status, page = 404, b"/metrics and /healthz are here\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the parser does not like; a method that we do not have is the client's mistake."""
        super().send_error(405 if code == 501 else code, message, explain)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Scrapes are not logged."""

    def log_error(self, *args: object) -> None:
        """Nor are those that fail: they are told."""
