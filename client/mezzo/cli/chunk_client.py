"""The client of the commands that touch single chunks, and the options that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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
    """A client; it connects with its first call."""
    import mezzo

    return mezzo.Client(address, namespace=namespace, timeout_s=timeout_s, name="mezzo-cli")
