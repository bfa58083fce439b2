"""What a KV-aware router does: follow which chunks of a namespace are present."""

import sys

import mezzo


def follow(present: set[bytes], happening: mezzo.Event | mezzo.Gap) -> None:
    """Take in one thing that happened."""
    if isinstance(happening, mezzo.Gap):
        present.clear()  # nothing is known any more; what is there is listed next
    elif happening.stored:
        present.add(happening.key)
    else:
        present.discard(happening.key)


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    present: set[bytes] = set()
    with mezzo.Client(address, namespace="followed") as client:
        client.put([b"early"], [b"was there before"])
        stream = client.events(snapshot=True)
        while b"early" not in present:
            follow(present, next(stream))
        client.put([b"one", b"two"], [b"1", b"2"])
        client.delete([b"one", b"early"])
        while present != {b"two"}:
            follow(present, next(stream))
        # The cursor can be kept, and a later stream begins behind it.
        kept = str(stream.cursor)
        client.delete([b"two"])
        for happening in client.events(mezzo.Cursor.parse(kept)).poll(timeout_s=5.0):
            follow(present, happening)
        print(f"present: {sorted(present)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
