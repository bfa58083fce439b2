"""The shards of a node as ``frontend.shards`` tells of them, one text for each. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo.address import Address, parse
from mezzo.errors import InvalidArgument
from mezzo.placement.pod_map import ADDRESSES_MAX
from mezzo.sizes import parse_size

ID_BYTES = 16
UNKNOWN_ID = bytes(ID_BYTES)


@dataclass(frozen=True, slots=True)
class ShardTold:
    """One shard, as far as it is known before it is asked."""

    addresses: tuple[str, ...]
    """the best first; clients are told all of them"""
    id: bytes = UNKNOWN_ID
    """of its store; zeros: not known"""
    capacity_bytes: int = 0
    """of its devices; 0: not known"""
    asked_at: str = ""
    """where a front-end asks it itself; empty: at the first of the addresses"""

    def __str__(self) -> str:
        known = [f"id={self.id.hex()}"] if self.id != UNKNOWN_ID else []
        if self.capacity_bytes:
            known.append(f"bytes={self.capacity_bytes}")
        if self.asked_at:
            known.append(f"at={self.asked_at}")
        return " ".join([*self.addresses, *known])


def parse_shard(text: str) -> ShardTold:
    """Of what ``str`` makes of one. Raises InvalidArgument."""
    addresses: list[str] = []
    shard_id, capacity_bytes, asked_at = UNKNOWN_ID, 0, ""
    for word in text.split():
        name, _, value = word.partition("=")
        if name == "id":
            shard_id = _id(word, value)
        elif name == "bytes":
            capacity_bytes = _bytes(word, value)
        elif name == "at":
            asked_at = _address(value)
        else:
            addresses.append(_address(word))
    if not 1 <= len(addresses) <= ADDRESSES_MAX:
        raise InvalidArgument(
            f"{text!r}: a shard has 1 to {ADDRESSES_MAX} addresses; write unix:///path, tcp://host:port or tcps://host:port"
        )
    return ShardTold(tuple(addresses), shard_id, capacity_bytes, asked_at)


def _address(word: str) -> str:
    address: Address = parse(word)
    if address.is_frontend:
        raise InvalidArgument(
            f"{word!r} is no shard's address; write unix:///path, tcp://host:port or tcps://host:port"
        )
    return word


def _id(word: str, value: str) -> bytes:
    try:
        shard_id = bytes.fromhex(value)
    except ValueError:
        shard_id = b""
    if len(shard_id) != ID_BYTES:
        raise InvalidArgument(f"{word!r}: a shard's id has {2 * ID_BYTES} hexadecimal digits")
    return shard_id


def _bytes(word: str, value: str) -> int:
    try:
        return parse_size(value)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{word!r}: write a size, such as bytes=64GiB") from None
