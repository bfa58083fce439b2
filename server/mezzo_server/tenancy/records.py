"""Records in an engine, read and changed by check-and-set. The one place where conflicts are tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import structlog

from mezzo.errors import Busy, InternalError, InvalidArgument, MezzoError, Unsupported
from mezzo_server.metadata.engine import OPERATIONS_MAX, Check, Engine, Write
from mezzo_server.stored import decode_stored
from mezzo_server.tenancy.entries import R, Record, decode, encode, key_of

T = TypeVar("T")

ATTEMPTS_MAX = 16
"""Others may change the same records so often while one change is tried."""

log = structlog.get_logger("mezzo.tenancy")


@dataclass(frozen=True, slots=True)
class Found(Generic[R]):
    """A record, and the revision to check for."""

    record: R
    revision: int


@dataclass(slots=True)
class Plan(Generic[T]):
    """A change that was thought out on what was read: made if that is still so."""

    result: T
    checks: list[Check] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def put(self, record: Record, revision: int, lease: int = 0) -> None:
        """Write a record whose entry is of this revision; 0: there is none yet."""
        key = key_of(record)
        self.checks.append(Check(key, revision))
        self.writes.append(Write(key, _checked(record), lease))

    def claim(self, name_key: str, record_id: bytes) -> None:
        """Take a name that nobody has."""
        self.checks.append(Check(name_key, 0))
        self.writes.append(Write(name_key, record_id.hex().encode()))


class Records:
    """What `Registry` asks of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def change(self, think: Callable[[], Awaitable[Plan[T]]]) -> T:
        """Make the change that ``think`` plans, which is called again when others were quicker.

        Raises:
            Busy: they were so too often.
        """
        for _ in range(ATTEMPTS_MAX):
            plan = await think()
            if not plan.writes:
                return plan.result
            if (await self.engine.transact(plan.checks, plan.writes)).done:
                return plan.result
        raise Busy("others keep changing the same metadata", 0.1)

    async def find(self, kind: type[R], key: str) -> Found[R] | None:
        """The record at ``key``."""
        entry = await self.engine.get(key)
        return None if entry is None else Found(decode(kind, key, entry.value), entry.revision)

    async def named(self, name_key: str) -> bytes | None:
        """The id of what has a name."""
        entry = await self.engine.get(name_key)
        if entry is None:
            return None
        try:
            return bytes.fromhex(entry.value.decode("ascii"))
        except ValueError:
            raise InternalError(f"the metadata record {name_key} is malformed") from None

    async def all(self, kind: type[R], prefix: str) -> list[Found[R]]:
        """The records under ``prefix``; those that are malformed are told to the log and left out."""
        found = []
        for entry in (await self.engine.scan(prefix)).entries:
            try:
                found.append(Found(decode(kind, entry.key, entry.value), entry.revision))
            except (InternalError, Unsupported) as error:
                log.error("a record is left out", reason=str(error))
        return found

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove keys, some at a time: for what nobody refers to any more."""
        for first in range(0, len(keys), OPERATIONS_MAX):
            await self.engine.transact([], [Write(key, None) for key in keys[first : first + OPERATIONS_MAX]])

    async def clear_up(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` after a change, which is made: a failure must not be told as the change's. The next one does it."""
        try:
            await work()
        except MezzoError as error:
            log.warning("what is of no more use is cleared away later", reason=str(error))


def _checked(record: Record) -> bytes:
    """A record's bytes, once they were seen to be readable. Raises InvalidArgument: a field is out of range."""
    try:
        data = encode(record)
        decode_stored(type(record), data)
    except (msgspec.ValidationError, UnicodeError) as error:
        # What a command line gives for bytes that are no text cannot be encoded.
        raise InvalidArgument(f"{type(record).__name__.lower()}: {error}") from None
    return data
