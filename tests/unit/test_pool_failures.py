"""What a pool does when its replicas die, with replicas that die when they are told to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from ray.exceptions import RayActorError

from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference import pool as pool_module
from obliviate.inference.engine import ScoredText
from obliviate.inference.pool import RESTARTS, EnginePool
from obliviate.schema import EngineSpec, ModelSpec

TEXTS = [Encoded((i, 0), 1) for i in range(6)]
SCORED = [ScoredText((float(i),), (True,)) for i in range(6)]


@dataclass(eq=False)
class Call:
    """A reference: what it comes to, when it is asked for. `never` is one that does not come back."""

    outcome: Callable[[], Any]
    never: bool = False


class FakeRay:
    """The two functions that the pool waits with; the call that was made first comes back first."""

    def wait(self, refs: Sequence[Call], num_returns: int) -> tuple[list[Call], list[Call]]:
        first = next(ref for ref in refs if not ref.never)
        return [first], [ref for ref in refs if ref is not first]

    def get(self, ref: Call) -> Any:
        return ref.outcome()


class Method:
    def __init__(self, call: Callable[..., Call]) -> None:
        self.remote = call


class Replica:
    """Scores a text by its number. Dies with each text of `deadly`; `starts` tells how each new start ends."""

    def __init__(self, deadly: Sequence[int] = (), starts: str = "") -> None:
        self.deadly, self.starts, self.scored = list(deadly), list(starts), 0
        self.score, self.ready = Method(self._score), Method(self._ready)

    def _score(self, _: ModelSpec, texts: Sequence[Encoded]) -> Call:
        ids = [text.input_ids[0] for text in texts]

        def outcome() -> list[ScoredText]:
            for each in ids:
                if each in self.deadly:
                    self.deadly.remove(each)
                    raise RayActorError
            self.scored += len(ids)
            return [SCORED[each] for each in ids]

        return Call(outcome)

    def _ready(self, _: ModelSpec) -> Call:
        how = self.starts.pop(0) if self.starts else "+"

        def outcome() -> None:
            if how == "-":
                raise RayActorError

        return Call(outcome, never=how == ".")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., EnginePool]:
    """Call with replicas; a chunk is one text."""
    monkeypatch.setattr(pool_module, "ray", FakeRay())
    monkeypatch.setattr(pool_module, "sleep", lambda _: None)
    monkeypatch.setattr(EnginePool, "_deadly", lambda self, ids: f"text {ids[0]} is deadly")

    def made(*replicas: Replica) -> EnginePool:
        found = EnginePool(ModelSpec(source="m"), EngineSpec(type="hf", replicas=len(replicas), chunk_size=1))
        found._replicas = list(replicas)
        return found

    return made


def test_a_chunk_of_a_dead_replica_is_done_again(pool: Callable[..., EnginePool]) -> None:
    """Its node is gone, which Ray takes a while to see: until then each call fails at once."""
    first, second = Replica(deadly=[2], starts="-----+"), Replica()
    assert pool(first, second).score(TEXTS) == SCORED
    assert first.scored + second.scored == 6


def test_nobody_waits_for_a_replica_that_finds_no_room(pool: Callable[..., EnginePool]) -> None:
    first, second = Replica(deadly=[0], starts="."), Replica()
    assert pool(first, second).score(TEXTS) == SCORED
    assert (first.scored, second.scored) == (0, 6)


def test_the_last_chunk_goes_to_a_replica_that_has_nothing_to_do_any_more(pool: Callable[..., EnginePool]) -> None:
    """Of two texts the second dies with its replica when the first is long done."""
    first, second = Replica(), Replica(deadly=[1], starts=".")
    assert pool(first, second).score(TEXTS[:2]) == SCORED[:2]
    assert first.scored == 2


def test_a_chunk_that_two_replicas_die_of(pool: Callable[..., EnginePool]) -> None:
    with pytest.raises(UserError, match=r"^text 3 is deadly$"):
        pool(Replica(deadly=[3]), Replica(deadly=[3])).score(TEXTS)
    with pytest.raises(UserError, match=r"^text 3 is deadly$"):
        pool(Replica(deadly=[3, 3])).score(TEXTS)


def test_two_chunks_may_lose_their_replica(pool: Callable[..., EnginePool]) -> None:
    assert pool(Replica(deadly=[1, 4])).score(TEXTS) == SCORED


def test_a_replica_that_never_starts_again(pool: Callable[..., EnginePool]) -> None:
    with pytest.raises(UserError, match=rf"^engine.replicas=1: a replica died {RESTARTS} times while loading m, most"):
        pool(Replica(deadly=[2], starts="-" * (RESTARTS + 1))).score(TEXTS)
