"""Load a prefix, or compute it again? The decision, from what the store expects and what computing costs. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from mezzo.errors import CallerError, InvalidArgument, MezzoError
from mezzo.identity import Identity
from mezzo.results import LookupResult


class LoadDecision(Struct, frozen=True):
    """How many leading chunks to load, and why. All times are seconds."""

    chunks: int
    """worth loading, from the first one on; 0: compute all"""
    prefix: int
    """chunks that are there"""
    load_s: float
    """that loading ``chunks`` should take, or all that is there if none is worth it: nine of ten such loads take no
    longer"""
    recompute_s: float
    """that computing the tokens of the same chunks would take"""
    reason: str
    """in a few words, for a log"""

    @property
    def load(self) -> bool:
        """Whether anything is worth loading."""
        return self.chunks > 0

    @property
    def saved_s(self) -> float:
        """What is saved by it; 0 if nothing is loaded."""
        return self.recompute_s - self.load_s if self.chunks else 0.0


class LoadQuestion(NamedTuple):
    """What ``should_load`` was asked, checked: see `load_question`."""

    recompute_tokens_per_s: float
    chunk_tokens: int
    overhead_s: float
    deadline_s: float | None

    def answer(self, found: LookupResult | MezzoError) -> LoadDecision:
        """The decision, by what a lookup came to; where the store cannot be asked, compute.

        Raises:
            CallerError: that is what it came to, so the call was wrong.
        """
        if isinstance(found, CallerError):
            raise found
        if isinstance(found, MezzoError):
            return LoadDecision(0, 0, 0.0, 0.0, f"the store cannot be asked: {found}")
        return decide_load(
            found,
            self.recompute_tokens_per_s,
            self.chunk_tokens,
            overhead_s=self.overhead_s,
            deadline_s=self.deadline_s,
        )


def load_question(
    identity: Identity | None,
    recompute_tokens_per_s: float,
    chunk_tokens: int | None,
    overhead_s: float,
    deadline_s: float | None,
) -> LoadQuestion:
    """``chunk_tokens``: as given, or as the namespace's identity says. Raises InvalidArgument for neither, or a number
    that cannot be.
    """
    if chunk_tokens is None:
        if identity is None:
            raise InvalidArgument("give chunk_tokens: the client's namespace has no identity that would tell")
        chunk_tokens = identity.chunk_tokens
    check_work(recompute_tokens_per_s, chunk_tokens, overhead_s, deadline_s)
    return LoadQuestion(recompute_tokens_per_s, chunk_tokens, overhead_s, deadline_s)


def check_work(
    recompute_tokens_per_s: float, chunk_tokens: int, overhead_s: float, deadline_s: float | None
) -> None:
    """Raises InvalidArgument."""
    if not recompute_tokens_per_s > 0:
        raise InvalidArgument(f"recompute_tokens_per_s must be positive, not {recompute_tokens_per_s}")
    if chunk_tokens < 1:
        raise InvalidArgument(f"chunk_tokens must be at least 1, not {chunk_tokens}")
    if not overhead_s >= 0:
        raise InvalidArgument(f"overhead_s must not be negative, not {overhead_s}")
    if deadline_s is not None and not deadline_s > 0:
        raise InvalidArgument(f"deadline_s must be positive, not {deadline_s}")


def decide_load(
    found: LookupResult,
    recompute_tokens_per_s: float,
    chunk_tokens: int,
    *,
    overhead_s: float = 0.0,
    deadline_s: float | None = None,
) -> LoadDecision:
    """How many leading chunks of what a lookup (or ``lease.found``) has told of are worth loading.

    Loading the first k chunks and computing the others takes ``load(k) + (prefix - k) * chunk``, so one looks
    for the k with the least of it.  A load has a part that does not grow with k (what is queued ahead, latencies,
    and ``overhead_s`` of the caller's), and each chunk adds its own: little if it is hot, more if a device is
    asked for it.  So leading chunks that are hot can be worth loading where the rest is not; otherwise it is all
    or nothing, unless ``deadline_s`` bounds the load.

    The load counts with the time that nine of ten such loads stay under, so that an estimate that has been
    wrong of late decides for computing.

    Raises:
        InvalidArgument: a number that cannot be.
    """
    check_work(recompute_tokens_per_s, chunk_tokens, overhead_s, deadline_s)
    chunk_s = chunk_tokens / recompute_tokens_per_s
    prefix = found.prefix
    if not prefix:
        return LoadDecision(0, 0, 0.0, 0.0, "nothing is there")
    costs = _Costs(found, overhead_s)
    most = prefix if deadline_s is None else costs.most(deadline_s)
    candidates = {min(found.hot_prefix, most), most}
    best = max(candidates, key=lambda k: (k * chunk_s - costs.load_s(k) if k else 0.0, k))
    load_s, recompute_s = costs.load_s(best), best * chunk_s
    if not best or load_s >= recompute_s:
        all_s = costs.load_s(prefix)
        if deadline_s is not None and not most:
            reason = f"the first chunk would take {costs.load_s(1) * 1e3:.2f} ms, beyond the deadline"
        else:
            reason = f"loading would take {all_s * 1e3:.2f} ms, computing {prefix * chunk_s * 1e3:.2f} ms"
        return LoadDecision(0, prefix, all_s, prefix * chunk_s, reason)
    which = (
        "all"
        if best == prefix
        else "the hot ones"
        if best == found.hot_prefix
        else "what the deadline allows"
    )
    reason = f"{which}: loading takes {load_s * 1e3:.2f} ms, computing {recompute_s * 1e3:.2f} ms"
    return LoadDecision(best, prefix, load_s, recompute_s, reason)


class _Costs:
    """What loading k leading chunks costs, as far as the numbers of a lookup tell.

    Chunks of one prefix are taken to be of one size, which they are in practice; the hot ones beyond the
    leading ones are taken to lie evenly among the rest.  What passes before the first byte is paid once, and by
    who loads hot chunks only if all are hot: nothing else is asked for them then.
    """

    def __init__(self, found: LookupResult, overhead_s: float) -> None:
        high_s = max(found.load_high_s, found.load_s)
        self._fixed_s = overhead_s
        self._hot = min(found.hot_prefix, found.prefix)
        self._prefix = found.prefix
        rest = found.prefix - self._hot
        tiers_s = found.hot_load_s + found.device_load_s
        if found.load_s <= 0 or tiers_s <= 0:
            # A server that does not tell of tiers, or an estimate of nothing.
            self._wait_s = 0.0
            self._hot_s = self._rest_s = high_s / found.prefix
            return
        scale = high_s / found.load_s
        self._wait_s = scale * min(found.load_wait_s, found.load_s)
        # Over a stream the tiers and the sending overlap: the tiers share what the whole takes.
        hot_chunks = found.hot_bytes / (found.bytes / found.prefix) if found.bytes else 0.0
        hot_s = found.hot_load_s * found.load_s / tiers_s
        if not rest:
            hot_s = max(0.0, found.load_s - found.load_wait_s)
        self._hot_s = scale * hot_s / hot_chunks if hot_chunks else 0.0
        rest_s = high_s - self._wait_s - self._hot * self._hot_s
        self._rest_s = max(0.0, rest_s) / rest if rest else 0.0

    def load_s(self, count: int) -> float:
        """Seconds to load so many leading chunks."""
        if not count:
            return 0.0
        hot = min(count, self._hot)
        waits = count > hot or self._hot == self._prefix
        return self._fixed_s + waits * self._wait_s + hot * self._hot_s + (count - hot) * self._rest_s

    def most(self, deadline_s: float) -> int:
        """How many of them can be loaded in so long."""
        below, above = 0, self._prefix
        while below < above:
            middle = (below + above + 1) // 2
            if self.load_s(middle) <= deadline_s:
                below = middle
            else:
                above = middle - 1
        return below
