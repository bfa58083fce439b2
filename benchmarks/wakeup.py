"""What waking another process costs here: python -m benchmarks.wakeup.

Two processes answer each other over a socket pair, both on one core, then on two.  Where the second
figure is far above the first (virtual machines), requests cost what wake-ups cost.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time

ROUNDS = 3000


def round_trip_us(own_core: int, other_core: int) -> float:
    """Mean time of one byte out and back, microseconds."""
    here, there = socket.socketpair()
    echo = multiprocessing.get_context("fork").Process(target=_echo, args=(here, there, other_core))
    echo.start()
    there.close()
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {own_core})
        for _ in range(ROUNDS // 10):
            here.send(b"x")
            here.recv(1)
        began = time.perf_counter()
        for _ in range(ROUNDS):
            here.send(b"x")
            here.recv(1)
        return (time.perf_counter() - began) / ROUNDS * 1e6
    finally:
        os.sched_setaffinity(0, cores)
        here.close()
        echo.join()


def _echo(here: socket.socket, there: socket.socket, core: int) -> None:
    here.close()
    os.sched_setaffinity(0, {core})
    while data := there.recv(64):
        there.send(data)


def main() -> None:
    """Print both."""
    cores = sorted(os.sched_getaffinity(0))
    print(f"on one core:    {round_trip_us(cores[0], cores[0]):7.1f} us there and back")
    if len(cores) > 1:
        print(f"on two cores:   {round_trip_us(cores[0], cores[1]):7.1f} us there and back")


if __name__ == "__main__":
    main()
