"""The block store: a log of segments on each device, and an index in memory rebuilt from them.

`store.BlockStore` is the face; ARCHITECTURE.md leads through a put and a get file by file.
"""
