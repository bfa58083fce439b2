"""DELETE: chunks go here, and none of them comes back from another shard for a while. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.errors import MezzoError, Unavailable
from mezzo.protocol.messages import Delete, Deleted, Kind
from mezzo_server.shard.request import Request, bitmap

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def delete(session: Session, request_id: int, body: Delete) -> None:
    """Delete chunks, and answer when that is durable. Raises MezzoError."""
    session.check_keys(body.keys)
    service, scope = session.service, session.scope
    request = DeleteRequest(session, request_id, body.keys)
    if service.puller is not None:
        service.puller.forget(scope, body.keys)
    ended = None
    if service.copies is not None:
        service.copies.forget(scope, body.keys)
        if session.is_behind:
            ended = service.copies.untold(scope, body.keys)

    def done(deleted: list[bool], error: Exception | None) -> None:
        if ended is not None:
            ended()
        if error is not None:
            request.fail(error if isinstance(error, MezzoError) else Unavailable(str(error)))
            return
        bits, count = bitmap(deleted)
        request.finish(Kind.DELETED, Deleted(count, bits))

    try:
        service.store.delete(scope, body.keys, done, time=request)
    except MezzoError as error:
        if ended is not None:
            ended()
        request.fail(error)
    service.poke()


class DeleteRequest(Request):
    """A delete."""

    __slots__ = ("_keys",)

    def __init__(self, session: Session, request_id: int, keys: Sequence[bytes]) -> None:
        super().__init__(session, request_id, Kind.DELETE)
        self._keys = keys

    @property
    def written(self) -> Sequence[bytes]:
        """See `Request.written`."""
        return self._keys
