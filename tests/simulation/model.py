"""What a store may answer: the model that is assumed to be perfect.

Each put has bytes of its own, so that what a get returns tells which put it came from.  A put is

    pending -> stored          its bytes are right answers until the key is deleted
            -> failed          never visible; a restart may find it all the same
            -> exists          its bytes were never written

A delete that was acknowledged kills every version that was stored or failed when it began.  What is
dead is never seen again, whatever happens; nor is a version from its deadline on.  All else may be a miss, except where a test knows better.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from mezzo_server.blockstore.api import Scope, Standing, StandingOf


class Fate(Enum):
    """What became of a version."""

    PENDING = "pending"
    STORED = "stored"
    FAILED = "failed"
    EXISTS = "exists"
    DEAD = "dead"


def payload(name: str, length: int) -> bytes:
    """Bytes that no other name has."""
    return random.Random(name).randbytes(length)


@dataclass
class Version:
    """One put of one key."""

    number: int
    parts: tuple[int, ...]
    data: bytes
    expiry_ms: int = 0
    """on the store's clock; 0: never"""
    fate: Fate = Fate.PENDING
    scribbled: bool = False
    """its source changed while it was written: it may be stored as anything, and hence be a miss"""


@dataclass
class Key:
    """All that is known of one key."""

    scope: Scope
    key: bytes
    versions: list[Version] = field(default_factory=list)
    pins: int = 0
    deletes: int = 0
    """deletes under way"""
    deletes_begun: int = 0
    erasures: int = 0
    restarts: int = 0

    def put(self, parts: tuple[int, ...], expiry_ms: int = 0) -> Version:
        """A version that is about to be put."""
        number = len(self.versions)
        data = payload(f"{self.scope}{self.key!r}{number}", sum(parts))
        version = Version(number, parts, data, expiry_ms)
        self.versions.append(version)
        return version

    def stored(self) -> Version | None:
        """The version acknowledged last that is alive and had no delete begun since; None: unknown."""
        for version in reversed(self.versions):
            if version.fate is Fate.STORED:
                return version
        return None

    def doomed(self) -> list[Version]:
        """What a delete that begins now kills for sure."""
        return [version for version in self.versions if version.fate in (Fate.STORED, Fate.FAILED)]

    def erase(self, scope: Scope) -> None:
        """All that was put is dead; from now on the key is in another scope."""
        for version in self.versions:
            version.fate = Fate.DEAD
        self.scope = scope
        self.pins = 0
        self.erasures += 1

    def legal(self, data: bytes, first_part: int, part_count: int, dead: set[int]) -> bool:
        """Whether a read that began when ``dead`` were dead may return these bytes."""
        for version in self.versions:
            if version.number in dead or version.fate is Fate.EXISTS:
                continue
            if version.fate is Fate.FAILED and not self.restarts:
                continue
            if cut(version, first_part, part_count) == data:
                return True
        return False

    def dead(self) -> set[int]:
        """Versions that must not be seen by reads that begin now, whatever the time."""
        return {version.number for version in self.versions if version.fate is Fate.DEAD}

    def over(self, now_ms: int) -> set[int]:
        """Versions whose time is over."""
        return {version.number for version in self.versions if 0 < version.expiry_ms <= now_ms}


class Generations:
    """What the metadata say: which generation each tenant and namespace has. All begin alive, with 0."""

    def __init__(self) -> None:
        self.generation: dict[bytes, int] = {}
        """by the id of a tenant or a namespace; -1: deleted"""
        self.unknown: set[bytes] = set()
        """tenants that nobody knows"""

    def scope(self, scope: Scope) -> Scope:
        """The scope that a session of this namespace has now."""
        known = self.generation
        return Scope(scope.tenant, scope.namespace, known.get(scope.tenant, 0), known.get(scope.namespace, 0))

    def erase(self, scope: Scope, *, tenant: bool = False, deleted: bool = False) -> None:
        """Raise the generation of a namespace, or of its tenant, or delete it."""
        name = scope.tenant if tenant else scope.namespace
        self.generation[name] = -1 if deleted else self.generation.get(name, 0) + 1

    def standing(self) -> StandingOf:
        """As of now."""
        known, unknown = dict(self.generation), set(self.unknown)

        def standing(scope: Scope) -> Standing:
            if scope.tenant in unknown:
                return Standing.UNKNOWN
            for name, generation in (
                (scope.tenant, scope.tenant_generation),
                (scope.namespace, scope.namespace_generation),
            ):
                if known.get(name, 0) < 0 or generation < known.get(name, 0):
                    return Standing.ERASED
            return Standing.ALIVE

        return standing


def cut(version: Version, first_part: int, part_count: int) -> bytes:
    """The bytes of some parts; all from the first on if the count is 0."""
    end = first_part + part_count if part_count else len(version.parts)
    start = sum(version.parts[:first_part])
    return version.data[start : start + sum(version.parts[first_part:end])]
