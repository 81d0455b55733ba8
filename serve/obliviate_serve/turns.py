"""Answers side by side, or one alone: what else is in a batch moves the last digits of its sums, and so, now and then,
a greedy answer to another token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """First come, first served: whoever wants to be alone waits for those before, and those behind wait for it."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._inside, self._taken = 0, False
        self._left = asyncio.Event()

    @asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._door:
            while self._taken or (alone and self._inside):
                self._left.clear()
                await self._left.wait()
            self._inside, self._taken = self._inside + 1, alone
        try:
            yield
        finally:
            self._inside, self._taken = self._inside - 1, False
            self._left.set()
