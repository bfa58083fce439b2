"""A trace whose objects are wanted by Zipf's law, independently of one another, as libCacheSim's CSV.

    python -m benchmarks.zipf_trace zipf.csv

For `mezzo simulate policies`: a workload in which a chunk's past says how often it is wanted, and neither age
nor prefix says more. docs/policies.md has what came of it.
"""

from __future__ import annotations

import argparse
from itertools import accumulate
from pathlib import Path
from random import Random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--references", type=int, default=60_000)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--exponent", type=float, default=0.9)
    parser.add_argument("--object-bytes", type=int, default=64 << 10)
    parser.add_argument("--seed", type=int, default=3)
    asked = parser.parse_args()
    weights = list(accumulate((rank + 1) ** -asked.exponent for rank in range(asked.objects)))
    drawn = Random(asked.seed).choices(range(asked.objects), cum_weights=weights, k=asked.references)
    lines = [f"{time},{number},{asked.object_bytes}\n" for time, number in enumerate(drawn)]
    asked.out.write_text("time,object,size\n" + "".join(lines))


if __name__ == "__main__":
    main()
