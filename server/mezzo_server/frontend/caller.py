"""Who makes the call that is being handled. Set by `Calls` before anything of the call is decoded.

A context variable, so that no handler can forget to pass it on: what has no caller has no tenant, and
fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mezzo.errors import InternalError
from mezzo_server.access.principal import Principal

_CALLER: ContextVar[Principal] = ContextVar("mezzo_caller")


def caller() -> Principal:
    """Who calls. Raises InternalError outside of a call."""
    try:
        return _CALLER.get()
    except LookupError:
        raise InternalError("there is no call, and so no caller") from None


@contextmanager
def calling(principal: Principal) -> Iterator[None]:
    """For the block, and what it awaits."""
    token = _CALLER.set(principal)
    try:
        yield
    finally:
        _CALLER.reset(token)
