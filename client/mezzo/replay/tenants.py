"""Shows that one tenant sees nothing of another's chunks: the same names, keys and identity, and another token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

import mezzo
from mezzo.errors import Unauthenticated
from mezzo.replay.payload import Pattern
from mezzo.replay.trace import BLOCK_TOKENS

OWNER, OTHER = TENANTS = ("acme", "globex")
NAMESPACE = "conversation"
ASKED_MAX = 512
GOT_MAX = 64
TIMEOUT_S = 30.0


class Isolation(Struct, frozen=True):
    """What two tenants saw of the same chunks."""

    owner: str
    other: str
    namespace: str
    asked: int
    """chunks that the owner had when the other asked for them"""
    owner_sees: int
    """of them, afterwards: reclaim goes on meanwhile, and a miss is always legal"""
    other_sees: int
    other_bytes: int
    """that came to the other tenant"""
    wrong_token_refused: bool
    """a token with one character changed opens nothing"""

    @property
    def well(self) -> bool:
        """The owner sees chunks, the other nothing, and nobody without a token gets in."""
        seen = self.other_sees or self.other_bytes
        return bool(self.owner_sees) and not seen and self.wrong_token_refused


def open_typed(address: str, token: str, block_bytes: int) -> mezzo.Client:
    """A client of the namespace in which the blocks of a trace are, which says what they are."""
    with mezzo.Client(address, token=token, via="direct", timeout_s=TIMEOUT_S) as client:
        return client.namespace(
            model="a pattern, in the place of a model's KV",
            kv_dtype="bytes",
            layout="block",
            chunk_tokens=BLOCK_TOKENS,
            chunk_bytes=block_bytes,
            name=NAMESPACE,
        )


def look(address: str, tokens: Mapping[str, str], blocks: Sequence[int], pattern: Pattern) -> Isolation:
    """Look at the last of ``blocks``, as both tenants, with the tokens of `TENANTS`."""
    block_bytes = pattern.block_bytes
    came = owner_sees = other_sees = 0
    with (
        open_typed(address, tokens[OWNER], block_bytes) as owner,
        open_typed(address, tokens[OTHER], block_bytes) as other,
    ):
        keys = _present(owner, [pattern.key(block) for block in blocks[-ASKED_MAX:]])
        if keys:
            wanted = keys[-GOT_MAX:]
            with other.region(len(wanted) * block_bytes) as region:
                places = [region[at * block_bytes : (at + 1) * block_bytes] for at in range(len(wanted))]
                other_sees = max(len(_present(other, keys)), other.get(wanted, places).count)
                data = bytes(region.view)
                came = len(data) - data.count(0)
            owner_sees = len(_present(owner, keys))
    return Isolation(
        owner=OWNER,
        other=OTHER,
        namespace=NAMESPACE,
        asked=len(keys),
        owner_sees=owner_sees,
        other_sees=other_sees,
        other_bytes=came,
        wrong_token_refused=_refused(address, _changed(tokens[OWNER])),
    )


def _present(client: mezzo.Client, keys: Sequence[bytes]) -> list[bytes]:
    """Those that are there."""
    if not keys:
        return []
    return [key for key, chunk in zip(keys, client.stat(keys), strict=True) if chunk is not None]


def _changed(token: str) -> str:
    """The token with another character in its secret."""
    place = token.index("_", token.index("_") + 1) + 1
    return token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]


def _refused(address: str, token: str) -> bool:
    try:
        with mezzo.Client(address, token=token, via="direct", timeout_s=TIMEOUT_S) as client:
            client.lookup([b"anything"])
    except Unauthenticated:
        return True
    return False
