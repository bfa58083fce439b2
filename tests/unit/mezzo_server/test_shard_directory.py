"""Where no metadata are kept: which ids a namespace has, at one shard and at several."""

from __future__ import annotations

from mezzo_server.shard.directory import SEVERAL_SHARDS, Directory


def test_shards_of_one_node_agree_on_ids_and_single_ones_have_their_own():
    one, other = Directory(SEVERAL_SHARDS), Directory(SEVERAL_SHARDS)
    assert one.scope_without_catalog("a") == other.scope_without_catalog("a")
    assert one.scope_without_catalog("a") != one.scope_without_catalog("b")
    single = Directory(bytes(range(16)))
    assert single.scope_without_catalog("a").tenant not in {one.tenant, Directory(bytes(16)).tenant}
