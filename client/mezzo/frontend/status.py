"""Errors as gRPC tells them: the one table, for both sides. No I/O, and no grpc: numbers only.

The status code is for any gRPC client; the trailing metadata names our own code, so that a client of Mezzo
raises the very error that a direct one would.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from mezzo.errors import (
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    ErrorCode,
    InternalError,
    InvalidArgument,
    MezzoError,
    TooLarge,
    Unsupported,
    from_code,
)

CODE_KEY = "mezzo-code"
RETRY_AFTER_KEY = "mezzo-retry-after-ms"
MESSAGE_CHARACTERS_MAX = 1024
"""of the message in a status: metadata is bounded, by peers if not by us"""


class Status(IntEnum):
    """gRPC's status codes, https://grpc.io/docs/guides/status-codes/."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


STATUSES: dict[ErrorCode, Status] = {
    ErrorCode.INVALID: Status.INVALID_ARGUMENT,
    ErrorCode.TOO_LARGE: Status.OUT_OF_RANGE,
    ErrorCode.UNSUPPORTED: Status.UNIMPLEMENTED,
    ErrorCode.DENIED: Status.PERMISSION_DENIED,
    # Between front-end and shard: nothing that the caller did.
    ErrorCode.PROTOCOL: Status.INTERNAL,
    ErrorCode.REGION: Status.FAILED_PRECONDITION,
    ErrorCode.UNAUTHENTICATED: Status.UNAUTHENTICATED,
    ErrorCode.CONFLICT: Status.ALREADY_EXISTS,
    ErrorCode.BUSY: Status.RESOURCE_EXHAUSTED,
    ErrorCode.DEADLINE: Status.DEADLINE_EXCEEDED,
    ErrorCode.OVER_QUOTA: Status.RESOURCE_EXHAUSTED,
    ErrorCode.WRONG_EPOCH: Status.ABORTED,
    ErrorCode.GONE: Status.ABORTED,
    ErrorCode.UNAVAILABLE: Status.UNAVAILABLE,
    ErrorCode.INTERNAL: Status.INTERNAL,
}
"""Our codes as gRPC's."""


class Told(NamedTuple):
    """What goes over the wire for an error."""

    status: Status
    message: str
    metadata: tuple[tuple[str, str], ...]
    """trailing"""


def tell(error: MezzoError) -> Told:
    """An error as status, message and trailing metadata."""
    metadata = [(CODE_KEY, error.code.name)]
    if isinstance(error, Busy):
        metadata.append((RETRY_AFTER_KEY, str(max(1, round(error.retry_after_s * 1000)))))
    return Told(STATUSES[error.code], str(error)[:MESSAGE_CHARACTERS_MAX], tuple(metadata))


def understand(status: int, message: str, metadata: Iterable[tuple[str, str | bytes]]) -> MezzoError:
    """The error that a call ended with; `ConnectionLost` if the front-end went away or is not there."""
    told = {key: value for key, value in metadata if isinstance(value, str)}
    name = told.get(CODE_KEY, "")
    if name in ErrorCode.__members__:
        retry_after = told.get(RETRY_AFTER_KEY, "")
        retry_after_s = int(retry_after) / 1000 if retry_after.isdecimal() else 0.05
        return from_code(ErrorCode[name], message, retry_after_s)
    # Not of our front-end's making: the library, or something between us and it.
    if status == Status.DEADLINE_EXCEEDED:
        return DeadlineExceeded("no answer from the front-end within the time of the call")
    if status == Status.RESOURCE_EXHAUSTED:
        if "larger than max" in message:
            return TooLarge(f"a gRPC message is over its limit: {message}")
        return Busy(f"the front-end refused: {message}")
    if status in (Status.UNAVAILABLE, Status.CANCELLED):
        return ConnectionLost(f"the front-end cannot be reached: {message}")
    if status == Status.UNIMPLEMENTED:
        return Unsupported(f"the front-end does not know this call: {message}")
    if status == Status.INVALID_ARGUMENT:
        return InvalidArgument(message)
    return InternalError(f"the front-end failed with status {_name(status)}: {message}")


def _name(status: int) -> str:
    return Status(status).name if status in Status._value2member_map_ else str(status)
