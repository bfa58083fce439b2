"""The published algorithms in their plainest form: one list for each queue."""

from __future__ import annotations

from collections import OrderedDict


class Clock:
    """FIFO with reinsertion: Corbató 1968."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[bytes] = []
        self.read: set[bytes] = set()

    @property
    def keys(self) -> set[bytes]:
        return set(self.queue)

    def ask(self, key: bytes) -> bool:
        if key in self.queue:
            self.read.add(key)
            return True
        while len(self.queue) >= self.capacity:
            oldest = self.queue.pop(0)
            if oldest in self.read:
                self.read.discard(oldest)
                self.queue.append(oldest)
        self.queue.append(key)
        return False


class LeastRecentlyUsed:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.order: OrderedDict[bytes, None] = OrderedDict()

    @property
    def keys(self) -> set[bytes]:
        return set(self.order)

    def ask(self, key: bytes) -> bool:
        if key in self.order:
            self.order.move_to_end(key)
            return True
        if len(self.order) >= self.capacity:
            self.order.popitem(last=False)
        self.order[key] = None
        return False


class SieveQueue:
    """Algorithm 1 of the paper: ``queue[0]`` is the tail, the end of the list the head."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[bytes] = []
        self.visited: set[bytes] = set()
        self.hand = 0

    @property
    def keys(self) -> set[bytes]:
        return set(self.queue)

    def ask(self, key: bytes) -> bool:
        if key in self.queue:
            self.visited.add(key)
            return True
        if len(self.queue) >= self.capacity:
            while True:
                if self.hand >= len(self.queue):
                    self.hand = 0
                here = self.queue[self.hand]
                if here not in self.visited:
                    break
                self.visited.discard(here)
                self.hand += 1
            # What was next after the victim is where the hand is now.
            self.queue.pop(self.hand)
        self.queue.append(key)
        return False


class S3Queues:
    """Algorithm 1 of the paper; which queue gives up its tail is decided anew at each step."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small: list[bytes] = []
        self.main: list[bytes] = []
        self.ghost: set[bytes] = set()
        """as long as it needs to be: the tests have fewer keys than it remembers"""
        self.uses: dict[bytes, int] = {}

    @property
    def keys(self) -> set[bytes]:
        return {*self.small, *self.main}

    def ask(self, key: bytes) -> bool:
        if key in self.keys:
            self.uses[key] = min(self.uses[key] + 1, 3)
            return True
        while len(self.small) + len(self.main) >= self.capacity:
            if self.small and (len(self.small) >= 0.1 * (len(self.small) + len(self.main)) or not self.main):
                tail = self.small.pop(0)
                if self.uses[tail] > 1:
                    self.main.append(tail)
                    self.uses[tail] = 0
                else:
                    self.ghost.add(tail)
            else:
                tail = self.main.pop(0)
                if self.uses[tail]:
                    self.uses[tail] -= 1
                    self.main.append(tail)
        (self.main if key in self.ghost else self.small).append(key)
        self.ghost.discard(key)
        self.uses[key] = 0
        return False
