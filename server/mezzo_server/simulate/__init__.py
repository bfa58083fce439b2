"""Replays of traces through the real block store, in virtual time, on a device that stores nothing.

`mezzo simulate policies` compares reclaim policies with it: what decides is the store's own code, so that
what is measured is what a node would do.
"""
