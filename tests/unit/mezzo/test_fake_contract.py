"""The fake store passes the contract of every client."""

import functools

import pytest

from mezzo.testing import AsyncFakeClient, FakeClient, FakeStore
from mezzo.testing.blocking import Blocking
from mezzo.testing.contract import ClientContract
from mezzo.testing.in_place import InPlaceContract


class TestFakeClient(ClientContract, InPlaceContract):
    @pytest.fixture
    def connect(self):
        store = FakeStore()
        return lambda namespace: FakeClient(store, namespace=namespace)


class TestAsyncFakeClient(ClientContract, InPlaceContract):
    @pytest.fixture
    def connect(self):
        store = FakeStore()
        return lambda namespace: Blocking(functools.partial(AsyncFakeClient, store, namespace=namespace))
