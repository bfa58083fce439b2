"""Which namespace a HELLO means, and how long its chunks may be. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import TooLarge
from mezzo.identity import Identity, bound_name, decode_identity, too_long
from mezzo.protocol.messages import Hello


def identity_in(hello: Hello) -> Identity | None:
    """What the client says that the bytes of its namespace are. Raises InvalidArgument."""
    return decode_identity(hello.identity) if hello.identity else None


def name_without_catalog(name: str, identity: Identity | None) -> str:
    """A namespace's name where nobody keeps which identity it has: then the identity is part of the name."""
    return name if identity is None else bound_name(name, identity)


def check_identity_lengths(lengths: Sequence[int], identity: Identity | None) -> None:
    """Raises TooLarge for a chunk that is longer than those of its namespace are."""
    if identity is not None and max(lengths) > identity.chunk_bytes:
        index = next(index for index, length in enumerate(lengths) if length > identity.chunk_bytes)
        raise TooLarge(too_long(index, lengths[index], identity.chunk_bytes, identity.chunk_tokens))
