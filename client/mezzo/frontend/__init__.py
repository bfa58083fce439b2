"""Clients by way of a front-end: sessions, the map of shards, and calls over gRPC.

Only modules that name it import grpc or protobuf, and `mezzo` imports those when a ``grpc://`` address
is first used.
"""
