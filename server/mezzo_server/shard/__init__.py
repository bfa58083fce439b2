"""One shard: a process with one event loop, its devices, index and memory.

    frames in -> protocol -> service (decisions, no I/O) -> block store -> device ring -> frames out

`service` and `session` decide, `shm_transfer`, `fd_transfer`, `tcp_get` and `tcp_put` are the ways that bytes take,
`leases` and `regions` what a client holds; `connection`, `listener` and `runtime` do the I/O;
`main` starts and stops it all.
"""
