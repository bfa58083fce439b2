"""A pod: many shards under one map. What decides is here and in `mezzo.placement`; no I/O."""
