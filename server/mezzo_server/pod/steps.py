"""What a machine of the pod wants done next; `driving` does it and tells how it went. No I/O.

Machines are `membership.Membership` (a shard's) and `planning.Planning` (whoever plans).  Times are of two
clocks: ``now`` never jumps and goes on while the machine sleeps; ``wall_s`` is Unix time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mezzo.errors import MezzoError
from mezzo_server.metadata.engine import Change, Check, Outcome, Scan, Write


@dataclass(frozen=True, slots=True)
class Look:
    """Scan this prefix, and tell `Machine.looked`."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Make this transaction, and tell `Machine.committed`."""

    checks: Sequence[Check]
    writes: Sequence[Write]


@dataclass(frozen=True, slots=True)
class Grant:
    """Get a metadata lease, and tell `Machine.granted`."""

    ttl_s: float


@dataclass(frozen=True, slots=True)
class Keep:
    """Let a lease begin anew, and tell `Machine.kept`."""

    lease: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease, and tell `Machine.revoked`."""

    lease: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait so long, unless something changes or somebody wakes the driver; None: without end."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class End:
    """There is nothing more to do."""


Step = Look | Commit | Grant | Keep | Revoke | Wait | End


@dataclass(frozen=True, slots=True)
class Watch:
    """To be watched: changes under a prefix after a revision."""

    prefix: str
    after: int


class Machine(Protocol):
    """Decides. One step is under way at a time; changes come in between, or while one is under way."""

    @property
    def watch(self) -> Watch | None:
        """What is to be watched from now on; as long as it is not None in between, a watch goes on."""

    def next_step(self, now: float, wall_s: float) -> Step:
        """What to do now."""

    def looked(self, scan: Scan, now: float) -> None:
        """A `Look` came back. Raises FormatError: what is stored cannot be used."""

    def committed(self, outcome: Outcome, now: float) -> None:
        """A `Commit` was decided."""

    def granted(self, lease: int, sent: float, now: float) -> None:
        """There is a lease; it was asked for at ``sent``, and so began then or later."""

    def kept(self, alive: bool, sent: float, now: float) -> None:
        """A lease began anew, at ``sent`` or later; not ``alive``: it had ended."""

    def revoked(self, now: float) -> None:
        """A lease has ended."""

    def changed(self, changes: Sequence[Change], now: float) -> None:
        """The watch tells. Raises FormatError as `looked`."""

    def watch_ended(self, now: float) -> None:
        """The watch cannot go on from where it was, or broke off."""

    def failed(self, error: MezzoError, now: float) -> None:
        """The step under way did not come to its end; what it should have done may have been done."""
