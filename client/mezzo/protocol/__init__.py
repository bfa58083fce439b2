"""The framed protocol between clients and shards, without I/O (docs/protocol.md).

`messages` defines the bodies, `frame` cuts a stream into frames, `connection` holds the order that
both ends keep.
"""
