"""Where a shard says that it is: its node, and the addresses at which others reach it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

from mezzo.errors import InvalidArgument
from mezzo.placement.pod_map import ADDRESSES_MAX, NAME_CHARACTERS_MAX
from mezzo_server.config.addresses import parse_address
from mezzo_server.config.schema import PodConfig


def node_name(pod: PodConfig) -> str:
    """The name of this node in its pod."""
    return (pod.node or socket.gethostname())[:NAME_CHARACTERS_MAX]


def reached_at(listening: Sequence[str], pod: PodConfig) -> tuple[str, ...]:
    """Addresses for the pod's map, the best first.

    Unix sockets are among them: a client looks whom it meets there, since another host may have another shard there.
    Where the settings say what is told (``pod.advertise``), it is that.

    Raises:
        InvalidArgument: the shard listens on all addresses of the host, and the settings name none.
    """
    told = []
    for text in pod.advertise or listening:
        address = parse_address(text)
        if address.is_wildcard:
            if not pod.host:
                raise InvalidArgument(
                    f"pod.host: the shard listens on {text}, which is no address that others could be told: say "
                    "by which host name or address they reach this node"
                )
            address = replace(address, host=pod.host)
        told.append(address)
    told.sort(key=lambda address: address.path is None)
    return tuple([str(address) for address in told[:ADDRESSES_MAX]])
