"""The endpoint on real sockets: formats, bad requests, crowds, dawdlers, a loop that hangs."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.config import MetricsConfig, ShardConfig
from mezzo_server.metrics import endpoint
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.shard.main import Shard
from tests.patience import PATIENCE_S, eventually

ATTEMPTS = 5
SAMPLE = Sample(numbers={"uptime_s": 7.5}, tables={"restarts": {("shard",): 2.0}}, words={"version": "1.2"})


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with closing(Endpoint("127.0.0.1:0", "supervisor", lambda: SAMPLE)) as one:
        yield one


def ask(
    address: str, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Status, content type, body."""
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE_S)) as connection:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()


def raw(address: str, request: bytes) -> bytes:
    """What comes back for these bytes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock:
        sock.sendall(request)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def test_metrics_in_both_formats(served: Endpoint) -> None:
    status, kind, page = ask(served.address, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    told = {
        (one.name, *one.labels.values()): one.value
        for f in text_string_to_metric_families(page)
        for one in f.samples
    }
    assert told["mezzo_supervisor_uptime_seconds",] == 7.5
    assert told["mezzo_supervisor_part_restarts_total", "shard"] == 2
    assert told["mezzo_supervisor_info", "1.2"] == 1
    assert told["process_resident_memory_bytes",] > 0
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    status, kind, page = ask(served.address, "/metrics?name=ignored", headers=accept)
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    assert page.endswith("# EOF\n")
    assert list(parse_openmetrics(page))


def test_health_and_what_is_not_there(served: Endpoint) -> None:
    assert ask(served.address, "/healthz")[::2] == (200, "ok\n")
    assert ask(served.address, "/healthz", "HEAD")[::2] == (200, "")
    assert ask(served.address, "/")[0] == 404
    assert ask(served.address, "/metrics/../etc/passwd")[0] == 404
    for method in ("POST", "PUT", "DELETE", "BREW"):
        assert ask(served.address, "/metrics", method)[0] == 405


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"GET / HTTP/1.0\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(200)) + b"\r\n", b"431"),
        (b"GET / HTTP/1.0\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_bad_requests_are_told_so(served: Endpoint, request_bytes: bytes, status: bytes) -> None:
    answer = raw(served.address, request_bytes)
    assert (
        status in answer.splitlines()[0]
        or answer.startswith(b"<!DOCTYPE")
        or b"Error code: " + status in answer
    )
    assert ask(served.address, "/healthz")[0] == 200


def test_an_unhealthy_process_says_so() -> None:
    with closing(Endpoint("127.0.0.1:0", "supervisor", lambda: SAMPLE, lambda: False)) as one:
        assert ask(one.address, "/healthz")[0] == 503
        assert ask(one.address, "/metrics")[0] == 200


def test_addresses() -> None:
    with (
        closing(Endpoint("127.0.0.1:0", "shard", Sample)) as one,
        pytest.raises(
            Unavailable, match=r"metrics\.shard: cannot listen on 127.0.0.1:\d+: Address already in use"
        ),
    ):
        Endpoint(one.address, "shard", Sample)
    with closing(Endpoint(one.address, "shard", Sample)):
        pass
    with pytest.raises(InvalidArgument, match=r"metrics\.insecure"):
        Endpoint("0.0.0.0:0", "shard", Sample)
    with closing(Endpoint("0.0.0.0:0", "shard", Sample, insecure=True)) as one:
        assert ask(f"127.0.0.1:{one.address.rpartition(':')[2]}", "/healthz")[0] == 200
    with pytest.raises(InvalidArgument):
        Endpoint("nonsense", "shard", Sample)


def test_a_crowd_is_bounded_and_dawdlers_are_cut_off(
    served: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = served.address.rpartition(":")
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            for _ in range(endpoint.SCRAPES_MAX)
        ]
        eventually(lambda: b" 503 " in raw(served.address, b"").splitlines()[0], "the crowd is full")
        monkeypatch.setattr(endpoint, "SCRAPE_S_MAX", 0.0)
        for sock in idle:
            assert sock.recv(1) == b"", "cut off"
        monkeypatch.undo()

        def served_again() -> bool:
            try:
                return ask(served.address, "/healthz")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        eventually(served_again, "it serves again")


def test_a_loop_that_hangs_is_told_within_two_seconds() -> None:
    config = ShardConfig(devices=["memory:64MiB"], listen=["tcp://127.0.0.1:0"])
    shard = Shard(config, metrics=MetricsConfig(shard="127.0.0.1:0"))
    thread = threading.Thread(target=lambda: shard.run(signals=False))
    thread.start()
    address = shard.readiness.metrics
    hang, hangs = threading.Event(), threading.Event()
    try:
        eventually(lambda: "mezzo_shard_loop_stalled 0.0" in ask(address, "/metrics")[2], "the loop runs")
        eventually(lambda: ask(address, "/healthz")[0] == 200, "it is well")

        def hold() -> None:
            hangs.set()
            hang.wait(2 * PATIENCE_S)

        shard._runtime.from_thread(hold)
        assert hangs.wait(PATIENCE_S)
        for _ in range(ATTEMPTS):  # the machine may stand still, too
            began = time.monotonic()
            page = ask(address, "/metrics")[2]
            if time.monotonic() - began < 2.0:
                break
        else:
            pytest.fail("it is not told within two seconds")
        assert "mezzo_shard_loop_stalled 1.0" in page
        assert 'mezzo_shard_segments{state="free"} ' in page, "the rest is what it last told"
        assert ask(address, "/healthz")[0] == 503
    finally:
        hang.set()
        eventually(lambda: ask(address, "/healthz")[0] == 200, "it is well again")
        shard.stop()
        thread.join(PATIENCE_S)
        shard.close()
    with pytest.raises(OSError, match="refused"):
        ask(address, "/healthz")
