"""Which shard of a pod keeps a chunk: computed from its namespace and key, and nothing else."""
