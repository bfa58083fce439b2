"""What a client does that can use chunks in place, as a suite to subclass beside `contract`.

    class TestMyClient(ClientContract, InPlaceContract): ...

The store is one whose chunks are all hot, at the latest when they are acquired with ``load=True``.  A
client that cannot use chunks in place subclasses `NotInPlaceContract` instead.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mezzo.errors import CallerError, Gone, InvalidArgument
from mezzo.testing.contract import check, pattern, same


class _Trouble(Exception):
    """Raised by a test in the block that uses chunks."""


class InPlaceContract:
    """Subclass it together with `ClientContract`, whose fixtures it uses."""

    def test_views_are_the_bytes_put(self, client: Any) -> None:
        chunks = [pattern(index, 1000 + 5000 * index) for index in range(5)]
        keys = [b"%d" % index for index in range(5)]
        client.put(keys, chunks)
        with client.acquire([*keys, b"absent"], 30.0, in_place=True, load=True) as lease:
            same((lease.prefix, lease.hot, len(lease.views)), (5, 5, 5))
            same([bytes(view) for view in lease.views], chunks)
            check(all(view.readonly for view in lease.views))
            check(lease.views is lease.views, "made once")
            lease.check()
        same(client.stat([b"0"])[0].leased, False)

    def test_parts_lie_behind_one_another(self, client: Any) -> None:
        data = pattern(3, 9001)
        client.put([b"k"], [data], parts=[1, 5000, 4000])
        with client.acquire([b"k"], 30.0, in_place=True, load=True) as lease:
            same(bytes(lease.views[0]), data)

    def test_using_checks_after_the_block(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        lease = client.acquire([b"k"], 30.0, in_place=True, load=True)
        with lease.using() as views:
            same(bytes(views[0]), b"bytes")
        with pytest.raises(Gone, match="acquire again"), lease.using() as views:
            client.delete([b"k"])
        with pytest.raises(Gone):
            lease.check()
        with pytest.raises(Gone):
            lease.release()
        same(lease.release(), False)

    def test_a_block_whose_chunks_went_raises_gone(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])

        def use() -> None:
            with client.acquire([b"k"], 30.0, in_place=True, load=True) as lease:
                same(bytes(lease.views[0]), b"bytes")
                client.delete([b"k"])

        with pytest.raises(Gone):
            use()

    def test_gone_comes_before_the_error_of_the_block(self, client: Any) -> None:
        for way in ("lease", "using"):
            client.put([b"k"], [b"bytes"])
            lease = client.acquire([b"k"], 30.0, in_place=True, load=True)

            def use(block: Any, lease: Any = lease) -> None:
                with block:
                    check(lease.views)
                    client.delete([b"k"])
                    raise _Trouble

            with pytest.raises(Gone) as caught:
                use(lease if way == "lease" else lease.using())
            check(isinstance(caught.value.__cause__, _Trouble))

    def test_an_error_of_the_block_stays_where_nothing_went(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])

        def use() -> None:
            with client.acquire([b"k"], 30.0, in_place=True, load=True) as lease, lease.using() as views:
                same(bytes(views[0]), b"bytes")
                raise _Trouble

        with pytest.raises(_Trouble):
            use()

    def test_views_end_with_the_lease(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        with client.acquire([b"k"], 30.0, in_place=True, load=True) as lease:
            view = lease.views[0]
        with pytest.raises(ValueError, match="released"):
            bytes(view)
        for late in (lambda: lease.views, lease.check):
            with pytest.raises(Gone, match="released"):
                late()

    def test_what_was_made_over_a_view_must_end_first(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        lease = client.acquire([b"k"], 30.0, in_place=True, load=True)
        # It holds the buffer of the view, as an array or a tensor over it does.
        over = struct.iter_unpack("B", lease.views[0])
        with pytest.raises(CallerError, match="still alive"):
            lease.release()
        same(next(over), (ord("b"),))
        del over  # a collection of both in one cycle would crash the interpreter (CPython 3.11)
        same(lease.release(), False)
        same(client.stat([b"k"])[0].leased, False)

    def test_a_lease_that_nobody_looked_at_ends_quietly(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        with client.acquire([b"k"], 30.0, in_place=True, load=True):
            client.delete([b"k"])

    def test_nothing_is_in_place_unless_asked_for(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        with client.acquire([b"k"], 30.0) as lease:
            same((lease.hot, lease.views), (0, (None,)))
            client.delete([b"k"])
            lease.check()

    def test_nothing_present_is_nothing_in_place(self, client: Any) -> None:
        with client.acquire([b"absent"], 30.0, in_place=True) as lease:
            same((lease.prefix, lease.hot, lease.views), (0, 0, ()))

    def test_loading_is_for_use_in_place(self, client: Any) -> None:
        with pytest.raises(InvalidArgument, match="in_place=True"):
            client.acquire([b"k"], 30.0, load=True)


class NotInPlaceContract:
    """Subclass it with `ClientContract` for a client that cannot: over TCP, or without shared memory."""

    def test_use_in_place_is_refused_with_a_reason(self, client: Any) -> None:
        client.put([b"k"], [b"bytes"])
        with pytest.raises(InvalidArgument, match="this host"):
            client.acquire([b"k"], 30.0, in_place=True)
        same(client.stat([b"k"])[0].leased, False)
