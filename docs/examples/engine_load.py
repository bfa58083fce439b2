"""What an engine's connector does: load a prefix if that is worth it, and never wait in vain."""

import sys

import mezzo

CHUNK_TOKENS = 256
PREFILL_TOKENS_PER_S = 12_000.0


def load_prefix(client: mezzo.Client, keys: list[bytes], targets: list[mezzo.Extent]) -> int:
    """How many chunks, from the first on, are in their targets now; the rest is to be computed."""
    try:
        # Leased, so that what was decided on is still there when it is loaded.
        with client.acquire(keys, ttl_s=10.0) as lease:
            decision = mezzo.decide_load(lease.found, PREFILL_TOKENS_PER_S, CHUNK_TOKENS)
            if not decision.load:
                return 0
            count = decision.chunks
            # Later than computing would be done, the chunks are of no use: then it fails at once.
            got = client.get(keys[:count], targets[:count], deadline_s=decision.recompute_s)
    except mezzo.CallerError:
        raise  # a mistake of ours
    except mezzo.MezzoError:
        return 0  # busy, too slow, or no server: go on without the cache
    return got.found.index(False) if False in got.found else got.count


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    with mezzo.Client(address) as client, client.region(1 << 20) as region:
        keys = [b"chunk-%d" % index for index in range(4)]
        extents = [region[index * 4096 : (index + 1) * 4096] for index in range(4)]
        client.put(keys[:3], extents[:3])
        print(f"loaded {load_prefix(client, keys, extents)} of {len(keys)} chunks")
        # The decision alone, without a lease:
        print(client.should_load(keys, PREFILL_TOKENS_PER_S, CHUNK_TOKENS).reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
