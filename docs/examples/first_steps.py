"""Put chunks, look a prefix up, get it back: over shared memory, without a copy."""

import sys

import mezzo

CHUNK_BYTES = 1024 * 1024


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    with (
        mezzo.Client(address, namespace="llama-70b/bf16/tp4-0") as client,
        client.region(8 * CHUNK_BYTES) as region,
    ):
        # The engine's chunk hashes: each covers the whole prefix up to its chunk.
        keys = [b"hash-of-prefix-%d" % index for index in range(4)]
        region.view[: 4 * CHUNK_BYTES] = b"\x2a" * (4 * CHUNK_BYTES)
        sources = [region[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] for index in range(4)]
        done = client.put(keys, sources)
        print(f"{done.stored} stored, {done.exists} were there")

        found = client.lookup([*keys, b"a chunk that nobody has put"])
        print(f"{found.prefix} of 5 chunks are there; a get would take about {found.load_s * 1000:.1f} ms")

        targets = [region[(4 + index) * CHUNK_BYTES : (5 + index) * CHUNK_BYTES] for index in range(4)]
        got = client.get(keys[: found.prefix], targets[: found.prefix])
        for key, there in zip(keys, got.found, strict=False):
            print(key.decode(), "hit" if there else "miss")


if __name__ == "__main__":
    main(*sys.argv[1:])
