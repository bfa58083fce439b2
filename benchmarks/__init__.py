"""Benchmarks: Mezzo beside what it is measured against, in turn, in one run. See docs/performance.md.

Not tests: nothing here passes or fails but by being unable to run.
"""
