"""Test code that uses Mezzo, without a server."""

from mezzo.testing import FakeClient, FakeStore


def cached(client: FakeClient, key: bytes) -> bool:
    return client.lookup([key]).prefix == 1


def test_a_chunk_is_found_until_it_is_evicted() -> None:
    store = FakeStore(capacity_bytes=3000)
    with FakeClient(store) as client:
        client.put([b"a"], [bytes(1000)])
        assert cached(client, b"a")
        client.put([b"b", b"c", b"d"], [bytes(1000)] * 3)
        assert not cached(client, b"a")
        assert store.keys() == [b"b", b"c", b"d"]


if __name__ == "__main__":
    test_a_chunk_is_found_until_it_is_evicted()
    print("passed")
