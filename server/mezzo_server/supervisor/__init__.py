"""The supervisor of a node: it starts shard and front-end, keeps them running, and stops them in order.

`plan` decides, without I/O; `child` is one process; `main` carries out what the plan says.
"""
