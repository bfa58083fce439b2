"""Read hot chunks where they lie in the shard's memory: no copy but the one that you need anyway."""

import sys

import mezzo


def load(client: mezzo.Client, keys: list[bytes], onto_gpu: bytearray) -> int:
    """Copy the prefix onto the GPU, out of the hot tier as far as it is there; how many chunks."""
    copied = 0
    try:
        with client.acquire(keys, ttl_s=5.0, in_place=True, load=True) as lease:
            for view in lease.views:
                if view is None:
                    break  # not hot: get it as usual
                start = copied * len(view)
                onto_gpu[start : start + len(view)] = view
                copied += 1
            # With a real GPU: wait for the stream that copies here, before the lease is checked and ends.
    except mezzo.Gone:
        return 0  # the shard had to take a chunk back: what was copied is not to be used
    return copied


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    """Put four chunks and load them."""
    keys = [f"in-place-{index}".encode() for index in range(4)]
    with mezzo.Client(address) as client:
        client.put(keys, [bytes([index + 1]) * 65536 for index in range(4)])
        gpu = bytearray(4 * 65536)
        copied = load(client, keys, gpu)
        # A shard without a hot tier, or without room in it, has fewer in place: the rest is got.
        rest = [memoryview(gpu)[index * 65536 : (index + 1) * 65536] for index in range(copied, 4)]
        got = client.get(keys[copied:], rest).count if rest else 0
        print(f"loaded {copied + got} of 4 chunks")


if __name__ == "__main__":
    main(*sys.argv[1:])
