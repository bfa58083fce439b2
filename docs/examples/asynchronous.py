"""The same calls in an event loop: many prefixes at once, on one connection."""

import asyncio
import sys

import mezzo

CHUNK_BYTES = 65536


async def load(client: mezzo.AsyncClient, number: int) -> int:
    with client.region(4 * CHUNK_BYTES) as region:
        keys = [b"prefix-%d-%d" % (number, index) for index in range(4)]
        extents = [region[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] for index in range(4)]
        await client.put(keys, extents, position=0)
        async with await client.acquire(keys, ttl_s=5.0) as lease:
            got = await client.get(keys[: lease.prefix], extents[: lease.prefix])
    return got.count


async def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    async with mezzo.AsyncClient(address) as client:
        counts = await asyncio.gather(*(load(client, number) for number in range(16)))
    print(f"{sum(counts)} chunks loaded")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
