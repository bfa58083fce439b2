"""The hot tier: chunks that are in memory as well as on a device (docs/hot-tier.md).

`HotTier` decides and does no I/O; `Arena` is the memory that same-host clients map.
"""
