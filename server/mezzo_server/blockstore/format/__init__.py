"""The format on devices, version 1. docs/format.md is its specification, with the reasons.

Pure functions between values and bytes: nothing here does I/O or holds state.
"""
