"""Where chunks lie: the same in columns as one by one."""

import pytest

from mezzo.errors import InternalError, InvalidArgument, RegionError
from mezzo.moves import put_back
from mezzo.places import Place, Places, places
from mezzo.regions import Extent, Region


def region(length=4096):
    return Region(
        memoryview(bytearray(length)), -1, offset=0, sealed=True, adopted=False, release=lambda: None
    )


def test_extents_of_one_region_are_what_they_are_one_by_one():
    where = region()
    extents = [where[10:20], where[0:10], where[4000:4096]]
    columns = places(extents, writable=True, name="targets")
    alone = [Place(extent.length, (extent,), ()) for extent in extents]
    slow = Places.of(alone)
    assert columns.region is where
    assert slow.region is None
    for these in (columns, slow):
        assert list(these) == alone
        assert (len(these), list(these.lengths)) == (3, [10, 10, 96])
        assert [list(pairs) for pairs in these.flat()] == [[10, 10], [0, 10], [4000, 96]]
        assert these.regions() == (where,)
        some = these.of_these([2, 0])
        assert list(some) == [alone[2], alone[0]]
        assert [list(pairs) for pairs in some.flat()] == [[4000, 96], [10, 10]]
        assert list(these.of_these([1])) == [alone[1]]
        assert len(these.of_these([])) == 0
    assert "region" in repr(columns)
    assert "any kind" in repr(slow)


def test_what_is_not_of_one_region_is_of_any_kind():
    one, other = region(), region()
    for mixed in (
        [one[0:8], other[0:8]],
        [one[0:8], bytearray(8)],
        [one[0:8], [one[8:16], one[32:40]]],
        [one, one[0:8]],
    ):
        these = places(mixed, writable=True, name="targets")
        assert these.region is None
        assert len(list(these)) == 2
    assert places([], writable=True, name="targets").regions() == ()


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [(-1, 8, RegionError), (4090, 8, RegionError), (0, 0, InvalidArgument), (0, 1 << 32, RegionError)],
)
def test_the_one_that_is_not_good_is_named(offset, length, error):
    where = region()
    extents = [where[0:8], Extent(where, offset, length), where[8:16]]
    with pytest.raises(error, match=r"targets\[1\]"):
        places(extents, writable=True, name="targets")
    where.close()
    with pytest.raises(RegionError, match=r"targets\[0\].*closed"):
        places([where[0:8]], writable=True, name="targets")


def test_what_parts_of_a_call_say_comes_to_its_place():
    whole = put_back([0, 0, 0, 0], [1, 3], (7, 8))
    assert list(whole) == [0, 7, 0, 8]
    assert list(put_back(whole, [0, 2], (5, 6))) == [5, 7, 6, 8]
    assert list(put_back(whole, [3, 2, 1, 0], (1, 2, 3, 4))) == [4, 3, 2, 1]
    assert list(put_back(whole, range(4), (1, 2, 3, 4))) == [1, 2, 3, 4]
    with pytest.raises(InternalError):
        put_back(whole, [0, 1], (1,))
