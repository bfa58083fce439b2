"""What a client shows: a token to front-ends, a ticket to shards. No I/O, no clock of its own.

Neither is ever part of a repr, a message or a log.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from mezzo.address import Address
from mezzo.backoff import Backoff
from mezzo.environment import INSECURE_VARIABLE, says
from mezzo.errors import InvalidArgument, MezzoError, Unavailable

TOKEN_VARIABLE = "MEZZO_TOKEN"  # noqa: S105 (the name of a variable)
TOKEN_CHARACTERS_MAX = 8192
TICKET_BYTES_MAX = 4096
FRESH_S = 30.0
"""How long what a callable gave is used before it is asked again."""
ASKED_NOW_S = 1.0
"""A callable that was asked so short a time ago would say the same."""
RETRY_S = 0.25
"""After the first attempt to renew a ticket failed; after each other one twice as long."""
RETRY_S_MAX = 5.0
RENEWED_S = 0.5
"""Nobody asks for another ticket so soon after the last, however short a time that is good for."""
RENEW_S_MAX = 1.0
"""How long one call may wait for the renewal of a ticket that is good for a while yet; half of its time at most."""
RENEW_S_MIN = 0.1
"""A call that has less time left leaves such a renewal to others."""

Token: TypeAlias = str | Callable[[], str]
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Ticket(NamedTuple):
    """A ticket, and the reading of the client's clock until which it is good."""

    ticket: bytes
    expires: float = math.inf

    def __repr__(self) -> str:
        return f"<Ticket of {len(self.ticket)} bytes>"


TicketSource: TypeAlias = Callable[[], Ticket]


class Bearer:
    """The token of one client. Owner of what its callable gave last."""

    def __init__(self, token: Token | None, now: Callable[[], float]) -> None:
        """None: what ``MEZZO_TOKEN`` says; an empty text: none.

        Raises:
            InvalidArgument: it is no token.
        """
        given: object = os.environ.get(TOKEN_VARIABLE, "").strip() if token is None else token
        self._now = now
        self._call = token if callable(token) else None
        self._text = "" if callable(given) else _checked(given)
        self._called = -math.inf

    def __repr__(self) -> str:
        return f"<Bearer {'a callable' if self._call else 'hidden' if self._text else 'none'}>"

    @property
    def shows(self) -> bool:
        """Whether there is a token to show, now or when its callable is asked."""
        return self._call is not None or bool(self._text)

    def check_way(self, address: Address, insecure: bool | None = None) -> None:
        """Refuse to show the token to ``address`` where everybody on the way could read it.

        ``insecure``: whether it may be shown all the same; None: what ``MEZZO_INSECURE`` says.

        Raises:
            InvalidArgument: it may not; the message says what would be right.
        """
        if address.is_encrypted or address.is_local or not self.shows:
            return
        if insecure if insecure is not None else says(INSECURE_VARIABLE):
            return
        raise InvalidArgument(
            f"the token would be sent to {address} in the clear, for whoever is on the way to read and use: give a "
            f"{address.scheme}s:// address (docs/tls.md), or token='' to show none; if the network is trusted, "
            f"insecure=True ({INSECURE_VARIABLE}=1)"
        )

    @property
    def stale(self) -> bool:
        """Whether `refresh` is to be called first. It calls the caller's function, which may take its time."""
        return self._call is not None and self._now() - self._called >= FRESH_S

    def refresh(self) -> None:
        """Ask the callable. What it raises goes to the caller; InvalidArgument if it gives no token."""
        if self._call is not None:
            self._text = _checked(self._call())
            self._called = self._now()

    def forget(self) -> bool:
        """What was given last was refused: ask again. False: it was given just now, or nobody can be asked."""
        if self._call is None or self._now() - self._called < ASKED_NOW_S:
            return False
        self._called = -math.inf
        return True

    def metadata(self) -> Metadata | None:
        """For a gRPC call."""
        return (("authorization", f"Bearer {self._text}"),) if self._text else None


class TicketState:
    """The ticket that a client's connection to a shard was opened with, and when to get another.

    Renewal is due at a random moment after half of its time: all clients of a front-end that was
    restarted do not come back together.  Attempts that fail, tickets that end as soon as they are given (the
    credential behind them ends) and shards that refuse each one never make a client ask again and again.
    """

    def __init__(self, now: Callable[[], float], random: Callable[[], float]) -> None:
        self._now = now
        self._random = random
        self._expires = math.inf
        self._renew_at = math.inf
        self._not_before = -math.inf
        self._backoff = Backoff(random, first_s=RETRY_S, max_s=RETRY_S_MAX)
        self._error: Exception | None = None
        """why the last attempt failed"""

    def __repr__(self) -> str:
        return f"<TicketState {'hidden' if self.used else 'none'}>"

    @property
    def due(self) -> bool:
        """Whether it is time to renew. False where there is no ticket, at the price of one comparison."""
        return self._renew_at != math.inf and self._now() >= self._renew_at

    @property
    def expired(self) -> bool:
        """Whether nothing can be asked before it is renewed."""
        return self._now() >= self._expires

    @property
    def used(self) -> bool:
        """Whether there is one."""
        return self._expires != math.inf

    def check(self) -> None:
        """Before an attempt to renew.

        Raises:
            MezzoError: what the last attempt ended with, since the next is not to be made yet.
        """
        error, wait_s = self._error, self._not_before - self._now()
        if error is None or wait_s <= 0:
            return
        if isinstance(error, MezzoError):
            raise copy.copy(error)
        raise Unavailable(f"the ticket could not be renewed (next attempt in {wait_s:.2f} s): {error}")

    def took(self, ticket: Ticket) -> None:
        """The connection goes on, or begins, with this one."""
        self._error = None
        self._backoff.succeeded()
        now = self._now()
        self._expires = ticket.expires if ticket.ticket else math.inf
        self._not_before = now + RENEWED_S * (0.5 + 0.5 * self._random())
        left_s = self._expires - now
        renew_at = now + left_s * (0.5 + 0.25 * self._random()) if left_s < math.inf else math.inf
        self._renew_at = max(renew_at, self._not_before)

    def failed(self, error: Exception) -> None:
        """It could not be renewed now."""
        self._error = error
        now = self._now()
        self._renew_at = self._not_before = now + self._backoff.failed(now)

    def refused(self) -> None:
        """The shard says that it has expired, whatever our clock says.

        Of one that was taken just now it is not believed: what was refused was asked with the one before.
        """
        if self.used and (self._error is not None or self._now() >= self._not_before):
            self._expires = self._renew_at = -math.inf


def _checked(token: object) -> str:
    """A token that may stand in a header. Never told in a message."""
    if not isinstance(token, str):
        raise InvalidArgument(
            f"token must be a text or a callable that gives one, not {type(token).__name__}"
        )
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise InvalidArgument(f"token has over {TOKEN_CHARACTERS_MAX} characters")
    if not all("!" <= character <= "~" for character in token):
        raise InvalidArgument("token has characters that no token has (spaces, ends of lines or the like)")
    return token
