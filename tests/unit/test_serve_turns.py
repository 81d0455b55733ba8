"""Answers side by side and alone: told by the order in which they begin and end."""

import asyncio

from obliviate_serve.turns import Turns


class Stage:
    """`said`: +name at the beginning of a turn and -name at its end, which comes when `let` is told."""

    def __init__(self) -> None:
        self.turns, self.said = Turns(), list[str]()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def enter(self, name: str, *, alone: bool = False) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._play(name, alone))
        await self.settle()

    async def _play(self, name: str, alone: bool) -> None:
        async with self.turns.turn(alone=alone):
            self.said.append(f"+{name}")
            await self._ends[name].wait()
            self.said.append(f"-{name}")

    async def let(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def test_whoever_is_alone_waits_for_those_before_and_is_waited_for() -> None:
    async def run() -> None:
        stage = Stage()
        await stage.enter("a")
        await stage.enter("b")
        await stage.enter("one", alone=True)
        await stage.enter("c")  # behind `one`, so that it does not wait for ever
        await stage.enter("other", alone=True)
        assert stage.said == ["+a", "+b"]
        for name in ("a", "b", "one", "c", "other"):
            await stage.let(name)
        assert stage.said == ["+a", "+b", "-a", "-b", "+one", "-one", "+c", "-c", "+other", "-other"]

    asyncio.run(run())


def test_a_turn_that_is_given_up_holds_nobody_up() -> None:
    """While it waits, and while it is taken."""

    async def run() -> None:
        stage = Stage()
        await stage.enter("a")
        await stage.enter("waits", alone=True)
        await stage.enter("b")
        stage.tasks["waits"].cancel()
        await stage.settle()
        assert stage.said == ["+a", "+b"]
        await stage.let("a")
        await stage.let("b")
        await stage.enter("one", alone=True)
        await stage.enter("c")
        stage.tasks["one"].cancel()
        await stage.settle()
        assert stage.said == ["+a", "+b", "-a", "-b", "+one", "+c"]
        await stage.let("c")

    asyncio.run(run())
