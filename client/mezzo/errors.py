"""Every error that Mezzo raises, in one tree sorted by who must act.

``CallerError``: the call was wrong; change it.  ``Busy``: right, but not now; try again after
``retry_after_s``.  ``Gone``: what the call relied on (a lease, a region, a connection) ended;
make a new one.  ``Unavailable`` and its kin: the server or the way to it failed; the caller goes
on without the cache.  ``Corrupt`` never leaves a server: callers see a miss.

``CODES`` is the one table between these classes and the codes of the framed protocol
(docs/protocol.md).
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Codes of ``ErrorReply`` and ``Refuse`` frames. Numbers are never used twice."""

    INVALID = 1
    TOO_LARGE = 2
    UNSUPPORTED = 3
    DENIED = 4
    PROTOCOL = 5
    REGION = 6
    UNAUTHENTICATED = 7
    CONFLICT = 8
    BUSY = 16
    DEADLINE = 17
    OVER_QUOTA = 18
    WRONG_EPOCH = 19
    GONE = 32
    UNAVAILABLE = 64
    INTERNAL = 65


class MezzoError(Exception):
    """Root of all errors of Mezzo."""

    code: ErrorCode = ErrorCode.INTERNAL


class CallerError(MezzoError):
    """The call is wrong; the same call will fail again."""

    code = ErrorCode.INVALID


class InvalidArgument(CallerError, ValueError):
    """An argument has the wrong form; the message names it and says what would be right."""


class TooLarge(CallerError, ValueError):
    """Something is over a configured limit; the message names the limit."""

    code = ErrorCode.TOO_LARGE


class Unsupported(CallerError):
    """The peer speaks no version or feature that this side speaks."""

    code = ErrorCode.UNSUPPORTED


class Denied(CallerError):
    """The credential does not allow this."""

    code = ErrorCode.DENIED


class Unauthenticated(CallerError):
    """There is no credential, or it is not valid (any more); the message never says which part of it was wrong."""

    code = ErrorCode.UNAUTHENTICATED


class Conflict(CallerError):
    """What is to be made exists already, and is something else; the message shows both."""

    code = ErrorCode.CONFLICT


class RegionError(CallerError):
    """A region is too small, closed, truncated or not fit for what was asked."""

    code = ErrorCode.REGION


class ForkedError(CallerError):
    """A client was used in a forked child; make a new one there."""


class Busy(MezzoError):
    """Over a limit at this moment; nothing was done. Try again after ``retry_after_s`` seconds."""

    code = ErrorCode.BUSY

    def __init__(self, message: str = "busy", retry_after_s: float = 0.05) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverQuota(Busy):
    """Over a hard limit of the tenant's; nothing was done. The message names the limit and what is used of it."""

    code = ErrorCode.OVER_QUOTA


class WrongEpoch(MezzoError):
    """A shard was asked for what belongs to another by the map that it follows; nothing was done.

    Get the pod's present map, and ask its owner.
    """

    code = ErrorCode.WRONG_EPOCH

    def __init__(self, message: str = "another shard's", epoch: int = 0) -> None:
        """``epoch``: of the map that the shard follows; 0: it follows none yet."""
        super().__init__(message)
        self.epoch = epoch


class DeadlineExceeded(MezzoError, TimeoutError):
    """The call's deadline passed, or was seen to be unreachable; what it did is not visible."""

    code = ErrorCode.DEADLINE


class Gone(MezzoError):
    """A lease, region or place that the call relied on has ended."""

    code = ErrorCode.GONE


class Corrupt(MezzoError):
    """Stored bytes are not what was stored. Internal: callers of a server see a miss."""


class FormatError(Corrupt):
    """Bytes on a device, or a device as a whole, do not follow the format that they should."""


class Unavailable(MezzoError):
    """The server, or what it stands on, cannot serve this now."""

    code = ErrorCode.UNAVAILABLE


class DeviceFailed(Unavailable):
    """A device is fenced after an I/O error; its chunks are misses."""


class ConnectionLost(Unavailable, ConnectionError):
    """The connection ended before the answer came."""


class ClientClosed(Unavailable):
    """The client was closed."""


class ProtocolError(MezzoError):
    """The peer sent what the protocol does not allow; the connection is of no more use."""

    code = ErrorCode.PROTOCOL


class InternalError(MezzoError):
    """A fault of ours. The message names what to report."""


CODES: dict[ErrorCode, type[MezzoError]] = {
    ErrorCode.INVALID: InvalidArgument,
    ErrorCode.TOO_LARGE: TooLarge,
    ErrorCode.UNSUPPORTED: Unsupported,
    ErrorCode.DENIED: Denied,
    ErrorCode.PROTOCOL: ProtocolError,
    ErrorCode.REGION: RegionError,
    ErrorCode.UNAUTHENTICATED: Unauthenticated,
    ErrorCode.CONFLICT: Conflict,
    ErrorCode.BUSY: Busy,
    ErrorCode.DEADLINE: DeadlineExceeded,
    ErrorCode.OVER_QUOTA: OverQuota,
    ErrorCode.WRONG_EPOCH: WrongEpoch,
    ErrorCode.GONE: Gone,
    ErrorCode.UNAVAILABLE: Unavailable,
    ErrorCode.INTERNAL: InternalError,
}


def from_code(code: int, message: str, retry_after_s: float = 0.0, epoch: int = 0) -> MezzoError:
    """The error for a code of the protocol; an unknown code is an ``InternalError``."""
    try:
        cls = CODES[ErrorCode(code)]
    except ValueError:
        return InternalError(f"unknown error code {code}: {message}")
    if issubclass(cls, Busy):
        return cls(message, retry_after_s)
    if cls is WrongEpoch:
        return WrongEpoch(message, epoch)
    return cls(message)
