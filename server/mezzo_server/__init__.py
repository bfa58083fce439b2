"""Mezzo's server: one shard with its block store, devices and data plane."""
