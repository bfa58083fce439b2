"""Parts and extents: one chunk of many layers that lie apart in the engine's memory."""

import sys

import mezzo

LAYERS = 32
LAYER_BYTES = 16 * 1024
STRIDE_BYTES = 256 * 1024  # from one layer's block to the next layer's


def extent_of(cache: mezzo.Region, layer: int, block: int) -> mezzo.Extent:
    start = layer * STRIDE_BYTES + block * LAYER_BYTES
    return cache[start : start + LAYER_BYTES]


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    with mezzo.Client(address) as client, client.region(LAYERS * STRIDE_BYTES) as cache:
        # One chunk: a block of each layer, stored as one part each.
        block = 3
        chunk = [extent_of(cache, layer, block) for layer in range(LAYERS)]
        for layer, extent in enumerate(chunk):
            extent.view[:] = bytes([layer]) * LAYER_BYTES
        client.put([b"chunk"], [chunk], parts=[LAYER_BYTES] * LAYERS)

        # Layer by layer: the first layers can be used while the others are still loading.
        other = 5
        for first in range(0, LAYERS, 8):
            targets = [extent_of(cache, layer, other) for layer in range(first, first + 8)]
            got = client.get([b"chunk"], [targets], part=(first, 8))
            print(f"layers {first} to {first + 7}: {got.bytes} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
