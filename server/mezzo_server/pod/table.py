"""The tables of an epoch: in C where that was compiled, else in Python, with the same result."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache

from mezzo.placement.rendezvous import NOBODY, Contender, check_contenders, logarithms, owners, shard_seed
from mezzo.placement.seconds import seconds

try:
    from mezzo_server._native import rendezvous
except ImportError:  # no compiler at the installation
    fast = False
else:
    fast = True
try:
    from mezzo_server._native.rendezvous import fill_seconds
except ImportError:  # none, or compiled from an earlier release
    fast_seconds = False
else:
    fast_seconds = True


def make_table(contenders: Sequence[Contender], slots_log2: int) -> array[int]:
    """`mezzo.placement.rendezvous.owners`. Holds its thread for about 20 ns (in Python 4 us) a slot and contender."""
    if not fast:
        return owners(contenders, slots_log2)
    check_contenders(contenders)
    table = array("H", [NOBODY]) * (1 << slots_log2)
    rendezvous.fill(*_running(contenders), _logarithms(), table)
    return table


def make_seconds(
    contenders: Sequence[Contender], domain_of: Sequence[int], table: Sequence[int], slots_log2: int
) -> array[int]:
    """`mezzo.placement.seconds.seconds`. As long as `make_table`."""
    if not fast_seconds:
        return seconds(contenders, domain_of, table, slots_log2)
    check_contenders(contenders)
    found = array("H", [NOBODY]) * (1 << slots_log2)
    owned = table if isinstance(table, array) else array("H", table)
    fill_seconds(*_running(contenders), _logarithms(), owned, array("H", domain_of), found)
    return found


@cache
def _logarithms() -> array[int]:
    return array("q", logarithms())


def _running(contenders: Sequence[Contender]) -> tuple[array[int], array[int], array[int]]:
    """Seeds, weights and indexes of those with a weight, in the order of their ids."""
    order = sorted(
        (index for index, contender in enumerate(contenders) if contender.weight),
        key=lambda index: contenders[index].id,
    )
    return (
        array("Q", [shard_seed(contenders[index].id) for index in order]),
        array("Q", [contenders[index].weight for index in order]),
        array("H", order),
    )
