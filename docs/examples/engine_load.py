"""What an engine's connector does: load a prefix if that is worth it, and never wait in vain."""

import sys

import mezzo

RECOMPUTE_S_PER_CHUNK = 0.020


def load_prefix(client: mezzo.Client, keys: list[bytes], targets: list[mezzo.Extent]) -> int:
    """How many chunks, from the first on, are in their targets now; the rest is to be computed."""
    try:
        with client.acquire(keys, ttl_s=10.0) as lease:
            worth_s = lease.prefix * RECOMPUTE_S_PER_CHUNK
            if lease.prefix == 0 or lease.load_s > worth_s:
                return 0
            # The timeout goes to the server too: what cannot end in time fails at once.
            got = client.get(keys[: lease.prefix], targets[: lease.prefix], timeout_s=worth_s)
    except mezzo.CallerError:
        raise  # a mistake of ours
    except mezzo.MezzoError:
        return 0  # busy, too slow, or no server: go on without the cache
    return got.found.index(False) if False in got.found else got.count


def main(address: str) -> None:
    with mezzo.Client(address) as client, client.region(1 << 20) as region:
        keys = [b"chunk-%d" % index for index in range(4)]
        extents = [region[index * 4096 : (index + 1) * 4096] for index in range(4)]
        client.put(keys[:3], extents[:3])
        print(f"loaded {load_prefix(client, keys, extents)} of {len(keys)} chunks")


if __name__ == "__main__":
    main(sys.argv[1])
