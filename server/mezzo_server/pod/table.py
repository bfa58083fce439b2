"""The table of an epoch: in C where that was compiled, else in Python, with the same result."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mezzo.placement.rendezvous import NOBODY, Contender, check_contenders, logarithms, owners, shard_seed

try:
    from mezzo_server._native import rendezvous
except ImportError:  # no compiler at the installation
    fast = False
else:
    fast = True


def make_table(contenders: Sequence[Contender], slots_log2: int) -> array[int]:
    """`mezzo.placement.rendezvous.owners`. Holds its thread for about 20 ns (in Python 4 us) a slot and contender."""
    if not fast:
        return owners(contenders, slots_log2)
    check_contenders(contenders)
    table = array("H", [NOBODY]) * (1 << slots_log2)
    order = sorted(
        (index for index, contender in enumerate(contenders) if contender.weight),
        key=lambda index: contenders[index].id,
    )
    rendezvous.fill(
        array("Q", [shard_seed(contenders[index].id) for index in order]),
        array("Q", [contenders[index].weight for index in order]),
        array("H", order),
        array("q", logarithms()),
        table,
    )
    return table
