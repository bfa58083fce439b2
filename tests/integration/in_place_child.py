"""A client that holds chunks in place and does as it is told: in_place_child.py ADDRESS NAMESPACE TTL_S KEY...

Says ``ready N`` (N chunks in place), waits for a line, reads all views and leaves the lease, then says
``fine`` or ``gone``, and with it whether the bytes that it had read were still the first ones.
"""

from __future__ import annotations

import sys

import mezzo


def main(address: str, namespace: str, ttl_s: str, *keys: str) -> None:
    """Never raises `Gone`: that is told."""
    with mezzo.Client(address, namespace=namespace) as client:
        lease = client.acquire([key.encode() for key in keys], float(ttl_s), in_place=True, load=True)
        first = [bytes(view) for view in lease.views if view is not None]
        lease.check()
        tell(f"ready {lease.hot}")
        sys.stdin.readline()
        read: list[bytes] = []
        try:
            with lease:
                read = [bytes(view) for view in lease.views if view is not None]
        except mezzo.Gone:
            outcome = "gone"
        else:
            outcome = "fine"
        tell(f"{outcome} {'same' if read == first else 'changed'}")


def tell(line: str) -> None:
    """To the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
