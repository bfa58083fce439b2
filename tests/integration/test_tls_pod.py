"""Shards of a pod that reach each other over TLS: what is read moves, and who has no certificate is not talked to."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from mezzo import TLS, Client
from mezzo.errors import MezzoError, WrongEpoch
from mezzo_server.testing import running_frontend, running_shard
from tests.contract.certificates import Authority
from tests.patience import eventually

KEYS = [b"chunk-%d" % number for number in range(40)]


def has(client: Client, key: bytes) -> bool | None:
    """None: it is another's."""
    try:
        return client.lookup([key]).prefix == 1
    except WrongEpoch:
        return None


def test_chunks_move_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("shard", client=False)
    config = (
        f'[metadata]\nengine = "sqlite://{tmp_path}/metadata.db"\n'
        f'[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{authority.ca}"\n'
        '[pod]\nenabled = true\nnode = "one"\nslots_log2 = 4\nramp_s = 0\n'
    )
    tls = TLS(ca=authority.ca)
    data = [bytes([number]) * 300_000 for number in range(40)]
    with ExitStack() as stack:
        # Nobody reaches the first but over TLS.
        one = stack.enter_context(running_shard(listen=["tcps://127.0.0.1:0"], config=config))
        stack.enter_context(running_frontend(one.tcps, config=config))
        with Client(one.tcps, tls=tls) as client:

            def put() -> bool:
                try:
                    return client.put(KEYS, data).failed == 0
                except MezzoError:
                    return False  # it is no member yet

            eventually(put, "the first shard serves")
        two = stack.enter_context(running_shard(config=config))
        with Client(two.unix) as client:

            def mine() -> list[bytes]:
                try:
                    return [key for key in KEYS if has(client, key) is not None]
                except MezzoError:
                    return []

            theirs = eventually(mine, "the second has slots")
            eventually(lambda: all(has(client, key) for key in theirs), "what is read has moved")
            assert 0 < len(theirs) < 40
            one.kill()
            targets = [bytearray(300_000) for _ in theirs]
            assert client.get(theirs, targets).count == len(theirs)
            assert [bytes(target) for target in targets] == [data[KEYS.index(key)] for key in theirs]
        two.kill()
