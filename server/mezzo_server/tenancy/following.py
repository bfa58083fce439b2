"""How a catalog follows the metadata: what to do next, and what is in force meanwhile. No I/O, no clock.

A watcher does what `next_step` says and tells how it went.  While the engine is away the last catalog
stays in force; only its age grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mezzo.backoff import Backoff
from mezzo_server.metadata.engine import Change, Scan
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.loading import CatalogLoader

WAIT_S_MIN = 0.1
WAIT_S_MAX = 2.0
"""between attempts: an engine that came back is noticed within 5 s, attempts of some seconds included"""
CONFIRM_S = 1.0
"""between two looks at whether the engine answers while nothing changes"""

NOTHING_FOLLOWED: Mapping[str, int | float] = dict.fromkeys(
    (
        "catalog_revision",
        "catalog_age_s",
        "catalog_failures",
        "catalog_loads",
        "catalog_changes",
        "catalog_tenants",
        "catalog_namespaces",
    ),
    0,
)
"""The numbers where no metadata are kept."""


@dataclass(frozen=True, slots=True)
class Load:
    """Scan all records, and tell `loaded`."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Tell `changed` of what comes after this revision, and `confirmed` every `CONFIRM_S`."""

    after: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait so many seconds, unless somebody asks to look at once."""

    seconds: float


class Following:
    """The state of a watcher. Owner of the records and of the catalog made of them."""

    def __init__(self, complain: Callable[[str, str], None], random: Callable[[], float]) -> None:
        """``complain`` is told of records that cannot be read: key, and why."""
        self._loader = CatalogLoader(complain)
        self._backoff = Backoff(random, first_s=WAIT_S_MIN, max_s=WAIT_S_MAX)
        self._loaded = False
        """what is known is current as far as the watch has come"""
        self._confirmed: float | None = None
        self.catalog: Catalog | None = None
        """in force; None: none was loaded yet"""
        self.failures = 0
        self.loads = 0
        self.changes = 0

    @property
    def revision(self) -> int:
        """What is known is all up to this revision."""
        return self._loader.revision

    def next_step(self, now: float) -> Load | Watch | Wait:
        """What to do now."""
        if self._backoff.not_before > now:
            return Wait(self._backoff.not_before - now)
        return Watch(self._loader.revision) if self._loaded else Load()

    def loaded(self, scan: Scan, now: float) -> Catalog | None:
        """A scan of all records came: the new catalog; None: it is as before.

        While a watch runs too, a scan that is older than what the watch has told changes nothing.
        """
        if self._loaded and scan.revision < self._loader.revision:
            self.confirmed(now)
            return None
        differs = self._loader.load(scan)
        self._loaded = True
        self.loads += 1
        self.confirmed(now)
        if not differs and self.catalog is not None:
            return None
        self.catalog = self._loader.catalog()
        return self.catalog

    def changed(self, changes: Sequence[Change], now: float) -> Catalog | None:
        """The watch told of changes: the new catalog; None: a scan had shown them already."""
        self.confirmed(now)
        new = [change for change in changes if change.revision > self._loader.revision]
        if not new:
            return None
        self._loader.apply(new)
        self.changes += len(new)
        self.catalog = self._loader.catalog()
        return self.catalog

    def confirmed(self, now: float) -> None:
        """The engine answered: what is known is current."""
        self._confirmed = now
        self._backoff.succeeded()

    def compacted(self) -> None:
        """The watch cannot go on from where it was: everything is loaded anew."""
        self._loaded = False
        self._loader.distrust()

    def failed(self, now: float) -> bool:
        """The engine did not answer; whether this is the first failure since it last did."""
        self._loaded = False
        self._loader.distrust()
        self.failures += 1
        first = not self._backoff.failures
        self._backoff.failed(now)
        return first

    def hurry(self) -> None:
        """Somebody asked: the next attempt is made at once."""
        self._backoff.not_before = 0.0

    def numbers(self, now: float) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        catalog = self.catalog
        return {
            "catalog_revision": 0 if catalog is None else catalog.revision,
            "catalog_age_s": -1.0 if self._confirmed is None else max(0.0, now - self._confirmed),
            "catalog_failures": self.failures,
            "catalog_loads": self.loads,
            "catalog_changes": self.changes,
            "catalog_tenants": 0 if catalog is None else len(catalog.tenant_ids),
            "catalog_namespaces": 0 if catalog is None else len(catalog.namespace_ids),
        }
