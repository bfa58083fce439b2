"""Lets other shards of the pod in: by what they sign, and by the key that is in their member record. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import Gone, MezzoError, Unavailable
from mezzo_server.access.peers import CONNECTION_S, PeerDoor, claimed_puller
from mezzo_server.access.principal import Reason, Refused
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import Standing
from mezzo_server.shard.admission import Guest, peer_guest

if TYPE_CHECKING:
    from mezzo_server.shard.service import Service

RECORD_S = 10.0
"""A member record may be so old;"""
RECORD_AGAIN_S = 1.0
"""one with which a signature did not fit, only so old."""
CONNECTIONS_MAX = 4
"""of one shard: a new one while the last is on its way out"""

Known = Callable[[MemberRecord | MezzoError | None], None]
Admitted = Callable[[Guest | MezzoError], None]


class Members(Protocol):
    """Who is registered."""

    def look(self, shard: bytes, fresh_s: float, told: Known, *, unproven: bool = False) -> None:
        """Tell the record of a shard that is no older; None: it is not registered. At once, or later.

        ``unproven``: for somebody of whom nobody knows who he is. If there are many of them, an older record, or Busy.
        """


class PeerAdmission:
    """Decides on HELLOs of other shards. Owned by the service; used by the loop."""

    def __init__(
        self,
        service: Service,
        door: PeerDoor,
        members: Members,
        standing: Standing,
        now_s: Callable[[], float],
    ) -> None:
        """``now_s``: Unix time."""
        self._service = service
        self._door = door
        self._members = members
        self._standing = standing
        self._now_s = now_s

    def admit(self, credential: bytes, told: Admitted) -> None:
        """Tell who shows this, or why he is not let in; at once, or when the metadata were looked at."""
        try:
            puller = claimed_puller(credential)
            pod_map = self._standing.pod_map
            if pod_map is None or not self._standing.serving:
                raise Unavailable("this shard serves nothing now, other shards neither")
            # Nobody else makes us ask the metadata.
            if puller == self._service.store.store_id or all(place.id != puller for place in pod_map.shards):
                raise Refused(Reason.UNKNOWN)
        except MezzoError as error:
            self._tell(told, error)
            return
        look = partial(self._members.look, puller, unproven=True)
        look_again = partial(look, RECORD_AGAIN_S, partial(self._known, puller, credential, told, None))
        look(RECORD_S, partial(self._known, puller, credential, told, look_again))

    def _known(
        self,
        puller: bytes,
        credential: bytes,
        told: Admitted,
        look_again: Callable[[], None] | None,
        record: MemberRecord | MezzoError | None,
    ) -> None:
        try:
            if isinstance(record, MezzoError):
                raise record
            pod_map = self._standing.pod_map
            if record is None or not record.public or pod_map is None:
                raise Refused(Reason.UNKNOWN_KEY)
            self._door.admit(credential, record.public, pod_map.pod, self._now_s())
        except Refused as refused:
            # It may have started again since, with another key.
            if look_again is not None and refused.reason in (Reason.SIGNATURE, Reason.UNKNOWN_KEY):
                look_again()
            else:
                self._tell(told, refused)
        except MezzoError as error:
            self._tell(told, error)
        else:
            self._make_room(puller)
            told(peer_guest(puller, self._service.now() + CONNECTION_S))

    def _make_room(self, puller: bytes) -> None:
        """End the oldest of a shard's connections if it has too many: nobody uses it any more."""
        sessions = [
            (session.guest.expires, number, session)
            for number, session in enumerate(self._service.sessions)
            if session.guest is not None and session.guest.peer == puller
        ]
        if len(sessions) >= CONNECTIONS_MAX:
            min(sessions)[2].link.refuse(Gone("the shard has newer connections to this one"))

    def _tell(self, told: Admitted, error: MezzoError) -> None:
        if isinstance(error, Refused):
            self._service.admission.count_refused(error.reason)
        told(error)
