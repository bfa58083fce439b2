"""The one rule about addresses that other hosts can reach."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mezzo.errors import InvalidArgument
from mezzo_server.config import load

TLS = '[tls]\ncertificate = "c"\nkey = "k"\n'
CREDENTIALS = '[metadata]\nengine = "sqlite:///m.db"\n[access]\nanonymous = ""\n'


def config(tmp_path: Path, *, part: str, encrypted: bool, credentials: bool, insecure: bool) -> str:
    scheme = "tcps" if encrypted else "tcp"
    listen = f'["{scheme}://10.0.0.7:7700"]' if part == "shard" else '"10.0.0.7:7710"'
    text = f"[{part}]\nlisten = {listen}\n" + "insecure = true\n" * insecure
    return text + TLS * encrypted + CREDENTIALS * credentials


@pytest.mark.parametrize("part", ["shard", "frontend"])
@pytest.mark.parametrize(
    ("encrypted", "credentials", "insecure"), list(itertools.product([False, True], repeat=3))
)
def test_other_hosts_need_both_or_the_word_that_they_are_trusted(
    tmp_path: Path, part: str, encrypted: bool, credentials: bool, insecure: bool
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        config(tmp_path, part=part, encrypted=encrypted, credentials=credentials, insecure=insecure)
    )
    if insecure or (encrypted and credentials):
        load(path)
        return
    with pytest.raises(InvalidArgument) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{part}.listen: ")
    assert f"set {part}.insecure if the network is trusted" in told
    assert ("is not encrypted" in told) is not encrypted
    assert ("tls.certificate and tls.key" in told) is not encrypted
    assert ("lets in callers without a credential" in told) is not credentials
    assert ('access.anonymous = ""' in told) is not credentials
    if part == "shard":
        assert ("write tcps://10.0.0.7:7700" in told) is not encrypted


@pytest.mark.parametrize("address", ["127.0.0.1:7710", "localhost:7710", "[::1]:7710"])
def test_loopback_needs_nothing(tmp_path: Path, address: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        f'[frontend]\nlisten = "{address}"\n[shard]\nlisten = ["unix:///s", "tcp://127.0.0.1:1"]\n'
    )
    load(path)
