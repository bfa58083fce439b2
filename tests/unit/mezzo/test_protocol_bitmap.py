import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import ProtocolError
from mezzo.protocol.bitmap import pack, unpack


@given(st.lists(st.booleans(), max_size=300))
def test_flags_survive(flags):
    assert unpack(pack(flags), len(flags)) == tuple(flags)
    assert len(pack(flags)) == (len(flags) + 7) // 8


def test_least_significant_bit_first():
    assert pack([True] + [False] * 8 + [True]) == b"\x01\x02"


def test_trailing_zeros_may_be_left_out():
    assert unpack(b"\x01", 20) == (True,) + (False,) * 19
    assert unpack(b"", 3) == (False,) * 3


@pytest.mark.parametrize(("bitmap", "count"), [(b"\x08", 3), (b"\0\0", 8), (b"\xff\xff", 15)])
def test_bits_of_no_key_are_refused(bitmap, count):
    with pytest.raises(ProtocolError):
        unpack(bitmap, count)
