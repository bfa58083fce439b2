"""The handshake at tcps://: what is negotiated, who is told what, whom a shard and a client trust."""

from __future__ import annotations

import socket
import ssl

import pytest

from mezzo import TLS, Client, ConnectionLost, InvalidArgument, MezzoError, Unavailable
from mezzo.cli.app import make_app, run
from mezzo_server.testing import running_shard
from tests.contract.certificates import Authority
from tests.integration.shard_wire import numbers
from tests.integration.tls_wire import at_rest, connected, context_of, table
from tests.patience import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def shard(authority, tmp_path_factory):
    listen = [f"unix://{tmp_path_factory.mktemp('s')}/s", "tcp://127.0.0.1:0", "tcps://127.0.0.1:0"]
    with running_shard(listen=listen, config=table(authority.issue("shard"))) as shard:
        yield shard


def failures(shard, reason: str) -> float:
    return numbers(shard.unix)[f"tls_handshake_failures_{reason}"]


def refused(address: str, tls: TLS) -> str:
    with Client(address, tls=tls) as client, pytest.raises(Unavailable) as caught:
        client.ping()
    assert not isinstance(caught.value, ConnectionLost)
    return str(caught.value)


def test_it_is_tls_1_3_and_nothing_older(shard, authority):
    with context_of(authority).wrap_socket(connected(shard), server_hostname="localhost") as sock:
        assert sock.version() == "TLSv1.3"
    before = failures(shard, "version")
    old = context_of(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        old.wrap_socket(connected(shard), server_hostname="localhost")
    eventually(lambda: failures(shard, "version") == before + 1, "it is counted")


def test_a_plain_client_is_told_that_tls_is_spoken_here(shard):
    before = failures(shard, "plain")
    with Client(shard.tcps.replace("tcps", "tcp")) as client, pytest.raises(MezzoError, match="tcps://"):
        client.ping()
    eventually(lambda: failures(shard, "plain") == before + 1, "it is counted")


def test_a_client_of_tls_on_a_plain_port_is_told_so(shard, trust):
    assert "does not speak TLS: is it tcp://" in refused(shard.tcp.replace("tcp", "tcps"), trust)


def test_http_gets_an_answer_that_says_what_this_is(shard):
    with connected(shard) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := sock.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"over TLS" in answer


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\xff\xff" + b"\xee" * 400, b"\x00" * 64, b"\x16" * 5000])
def test_garbage_instead_of_a_handshake_ends_that_connection_only(shard, trust, garbage):
    with Client(shard.tcps, tls=trust) as client:
        client.ping()
        with connected(shard) as sock:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            try:
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass
        assert client.ping() > 0
    at_rest(shard)


def test_a_slow_handshake_is_cut_off_and_holds_nobody_up(authority, trust, tmp_path):
    config = table(authority.issue("hurried"), "handshake_timeout_s = 0.5", "handshakes_max = 2")
    with running_shard(listen=[f"unix://{tmp_path}/s", "tcps://127.0.0.1:0"], config=config) as shard:
        with connected(shard) as one, connected(shard) as two, connected(shard) as three:
            for sock in (one, two, three):
                sock.sendall(b"\x16\x03\x01")
            # Both places are taken; who comes now waits until they are cut off.
            with Client(shard.tcps, tls=trust, connect_timeout_s=PATIENCE_S, timeout_s=PATIENCE_S) as client:
                client.connect(PATIENCE_S)  # on a busy machine its own handshake may be too slow at first
                assert client.ping() > 0
            eventually(lambda: failures(shard, "timeout") >= 3, "they are counted")
            for sock in (one, two, three):
                assert _ended(sock)
        at_rest(shard)


def _ended(sock: socket.socket) -> bool:
    """Wait until the other side has ended it."""
    try:
        return sock.recv(4096) == b""
    except ConnectionError:
        return True


def test_a_certificate_of_somebody_else_is_not_trusted(shard, tmp_path):
    before = failures(shard, "certificate")
    told = refused(shard.tcps, TLS(ca=Authority(tmp_path, "other").ca))
    assert "signed by nobody we trust" in told
    assert "MEZZO_TLS_CA" in told
    eventually(lambda: failures(shard, "certificate") == before + 1, "it is counted")


def test_a_certificate_for_another_name_is_not_taken_unless_it_is_named(authority):
    config = table(authority.issue("elsewhere", ("mezzo.example",)))
    with running_shard(listen=["tcps://127.0.0.1:0"], config=config) as shard:
        told = refused(shard.tcps, TLS(ca=authority.ca))
        assert "for another name" in told
        assert "MEZZO_TLS_SERVER_NAME" in told
        with Client(shard.tcps, tls=TLS(ca=authority.ca, server_name="mezzo.example")) as client:
            assert client.ping() > 0


def test_files_that_are_none_are_named(shard, tmp_path):
    with (
        Client(shard.tcps, tls=TLS(ca=str(tmp_path / "none.pem"))) as client,
        pytest.raises(InvalidArgument, match=r"ca .*none\.pem"),
    ):
        client.ping()
    with pytest.raises(InvalidArgument, match="needs its key"):
        TLS(certificate="a")


def test_a_server_that_asks_for_a_certificate_gets_one_or_says_so(authority):
    config = table(
        authority.issue("asking"), 'client_certificates = "required"', f"client_ca = {authority.ca!r}"
    )
    with running_shard(listen=["tcps://127.0.0.1:0"], config=config) as shard:
        assert "MEZZO_TLS_CERTIFICATE" in refused(shard.tcps, TLS(ca=authority.ca))
        expired = authority.issue("late", client=True, days=-1)
        assert "does not accept our client certificate" in refused(
            shard.tcps, TLS(ca=authority.ca, certificate=expired.certificate, key=expired.key)
        )
        good = authority.issue("client", client=True)
        with Client(
            shard.tcps, tls=TLS(ca=authority.ca, certificate=good.certificate, key=good.key)
        ) as client:
            assert client.ping() > 0


def test_the_command_line_takes_whom_to_trust_before_the_command(
    shard, authority, tmp_path, monkeypatch, capfd
):
    for name in ("CA", "CERTIFICATE", "KEY", "SERVER_NAME"):
        monkeypatch.setenv(f"MEZZO_TLS_{name}", "")  # put back at the end
    (tmp_path / "chunk").write_bytes(b"z" * 5000)

    def mezzo(*arguments: str) -> int:
        return run(make_app, [*arguments])

    where = ("--server", shard.tcps)
    assert mezzo("--tls-ca", authority.ca, "put", "by-hand", str(tmp_path / "chunk"), *where) == 0
    assert mezzo("--tls-ca", authority.ca, "lookup", "by-hand", *where) == 0
    monkeypatch.setenv("MEZZO_TLS_CA", "")
    capfd.readouterr()
    assert mezzo("lookup", "by-hand", *where) == 2
    assert "MEZZO_TLS_CA" in capfd.readouterr().err
