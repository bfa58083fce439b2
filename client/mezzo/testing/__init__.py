"""For tests of code that uses Mezzo: a store in memory behind the clients' own faces.

`FakeStore` keeps chunks in memory, within a capacity, and evicts the oldest; `FakeClient` and
`AsyncFakeClient` have the methods of `mezzo.Client` and `mezzo.AsyncClient`.  They pass the same
contract suite (`mezzo.testing.contract`, which needs pytest and is not imported here).
"""

from __future__ import annotations

from mezzo.testing.clients import AsyncFakeClient, FakeClient
from mezzo.testing.store import FakeStore

__all__ = ["AsyncFakeClient", "FakeClient", "FakeStore"]
