"""Quotas: what each tenant uses of a shard, what it may use, and what it is told when that is too much."""
