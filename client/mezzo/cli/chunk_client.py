"""The client of the commands that touch single chunks, and the options that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mezzo.cli.shards import one_shard

if TYPE_CHECKING:
    import mezzo

TIMEOUT_S = 30.0

Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY", help="Keys: text is taken as it is (UTF-8), bytes are written hex:0123abcd."
    ),
]


def open_client(address: str, namespace: str, timeout_s: float) -> mezzo.Client:
    """A client; it connects with its first call. Raises InvalidArgument: the address stands for several shards."""
    import mezzo

    address = one_shard(address, "or the front-end, --server grpc://HOST:PORT, for the chunks of all of them")
    return mezzo.Client(address, namespace=namespace, timeout_s=timeout_s, name="mezzo-cli")
