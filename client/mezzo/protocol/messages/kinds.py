"""Kinds of frames."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """Frame kinds. Numbers are never used twice; requests are odd, their answers even."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 4
    ERROR = 6
    PING = 7
    PONG = 8
    EPOCH = 10
    REGION_ADD = 17
    REGION_ADDED = 18
    REGION_REMOVE = 19
    REGION_REMOVED = 20
    LOOKUP = 33
    LOOKED_UP = 34
    GET = 35
    GOT = 36
    GET_DATA = 38
    PUT = 39
    PUT_DONE = 40
    PUT_GRANT = 42
    PUT_DATA = 43
    DELETE = 45
    DELETED = 46
    ACQUIRE = 47
    ACQUIRED = 48
    RELEASE = 49
    RELEASED = 50
    STAT = 51
    STATED = 52
    SHARD_STAT = 53
    SHARD_STATED = 54
    CANCEL = 55
    CANCELLED = 56
    ARENA_OPEN = 57
    ARENA_OPENED = 58
    DEVICES = 59
    DEVICES_ARE = 60
    DEVICE_CHANGE = 61
    DEVICE_CHANGED = 62
    TICKET_RENEW = 63
    TICKET_RENEWED = 64
    LEASE_RENEW = 65
    LEASE_RENEWED = 66
    EVENTS = 67
    EVENTS_ARE = 68
    TENANT_STAT = 69
    TENANT_STATED = 70
    PULL = 71
    PULLED = 72
    OFFER = 73
    OFFERED = 74
