"""Drives what is written as a generator of steps (`calls`, `reaching`): performs each, and tells it how that went."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def drive(call: Generator[S, Any, T], take: Callable[[S, float], object], deadline: float) -> T:
    """Perform the steps of ``call`` with ``take``, under one deadline; its result. It hears of what ``take`` raises."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = call.send(value) if error is None else call.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        value, error = None, None
        try:
            value = take(step, deadline)
        except BaseException as raised:
            error = raised


async def drive_async(
    call: Generator[S, Any, T], take: Callable[[S, float], Awaitable[object]], deadline: float
) -> T:
    """`drive`, where steps take their time."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = call.send(value) if error is None else call.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        value, error = None, None
        try:
            value = await take(step, deadline)
        except BaseException as raised:
            error = raised
