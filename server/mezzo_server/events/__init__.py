"""KV events: what was stored and removed in a namespace, in order, for routers that want to know. No I/O."""
