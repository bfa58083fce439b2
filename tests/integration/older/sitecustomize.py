"""Makes a process that begins with this folder on its path speak as the release before did.

Version 1 of the framed protocol (no `EPOCH`, and nothing between shards), sessions without a map that is known already, member records without
what came later, and records of the metadata of which nothing unknown is kept.
"""

from __future__ import annotations

import json

import msgspec

from mezzo import session
from mezzo.frontend import opened
from mezzo.pod import MapTold
from mezzo.protocol import connection, frame
from mezzo.protocol.messages import Kind
from mezzo_server.frontend.pod import PodKnown
from mezzo_server.pod import records, view

LATER_KINDS = {Kind.EPOCH, Kind.PULL, Kind.PULLED, Kind.OFFER, Kind.OFFERED}
LATER_MEMBER_FIELDS = {"public", "reader_min"}


def encode_record(record: msgspec.Struct) -> bytes:
    """As it was written then."""
    document = json.loads(now_encode(record))
    return msgspec.json.encode(
        {name: value for name, value in document.items() if name not in LATER_MEMBER_FIELDS}
    )


def decode_record(kind: type, key: str, value: bytes) -> object:
    """As it was read then: what is not known is dropped."""
    return msgspec.json.decode(value, type=kind)


def request(client_name: str, namespace: str, had: object = None) -> bytes:
    """Nothing was said of a map."""
    return now_request(client_name, namespace)


connection.VERSION_MAX = 1
connection.negotiate.__defaults__ = (1, 1)
for kind in LATER_KINDS:
    del frame._DECODERS[int(kind)]
frame.FROM_SERVER = session.FROM_SERVER = frozenset(frame.FROM_SERVER) - LATER_KINDS
frame.FROM_CLIENT = frozenset(frame.FROM_CLIENT) - LATER_KINDS
now_encode, records.encode = records.encode, encode_record
records.decode = view.decode = decode_record
now_request, opened.request = opened.request, request
PodKnown.told = lambda self, had: MapTold(self.encoded)
