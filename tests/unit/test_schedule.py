"""Which texts meet in which step, and the learning rate of each step."""

from collections import Counter
from itertools import combinations
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.rows import Row
from obliviate.data.schedule import Item, Schedule
from obliviate.data.text import Encoded
from obliviate.methods import Pass
from obliviate.methods.texts import Sets
from obliviate.schema import OptimSpec
from obliviate.train.batch import TextKey, Texts, micro_batches
from obliviate.train.early_drop import EarlyDrop


def schedule(
    anchors: int, retain: int = 100, *, seed: int = 0, pairing: Literal["fresh", "fixed"] = "fresh", **optim: Any
) -> Schedule:
    return Schedule(anchors, retain, 10, OptimSpec(**optim), seed, pairing)


def items(of: Schedule) -> list[Item]:
    return [item for step in range(of.steps) for item in of.step(step)]


@pytest.mark.parametrize(("anchors", "steps", "per_epoch"), [(40, 6, 1), (200, 31, 6), (400, 62, 12)])
def test_tofu_takes_the_published_number_of_steps(anchors: int, steps: int, per_epoch: int) -> None:
    """5 epochs at batch 32: floor(5 * 40 / 32) = 6, floor(1000 / 32) = 31, floor(2000 / 32) = 62."""
    assert schedule(anchors).steps == steps
    assert schedule(anchors).steps_per_epoch == per_epoch


def test_there_is_one_step_at_least() -> None:
    assert schedule(3, epochs=1).steps == 1  # floor(3 / 32) = 0
    assert len(schedule(3, epochs=1).step(0)) == 32  # ten passes over the three, and two of the eleventh


def test_the_learning_rate_rises_for_one_epoch_and_falls_to_zero() -> None:
    """20 anchors in batches of 10, 3 epochs: 6 steps, 2 of warm-up; then 4/4, 3/4, 2/4, 1/4 of the peak."""
    rates = [schedule(20, batch_size=10, epochs=3, learning_rate=1e-3).learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_there_is_no_warm_up_where_an_epoch_is_one_step() -> None:
    """forget01: 40 anchors at batch 32 are one step an epoch, six steps in all."""
    rates = [schedule(40, learning_rate=6.0).learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([6, 5, 4, 3, 2, 1])


def test_warm_up_and_constant_schedule_can_be_chosen() -> None:
    rates = [
        schedule(40, epochs=5, learning_rate=1.0, schedule="constant", warmup_steps=2).learning_rate(step)
        for step in range(6)
    ]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 1])


def test_warm_up_as_long_as_the_run_never_divides_by_zero() -> None:
    of = schedule(40, warmup_steps=6, learning_rate=6.0)
    assert [of.learning_rate(step) for step in range(6)] == pytest.approx([0, 1, 2, 3, 4, 5])


def test_the_draws_stay_as_they_are() -> None:
    """A run goes on, and is reproduced, by these: numbers of the first release, which nothing else derives."""
    of = Schedule(5, 100, 10, OptimSpec(batch_size=3, epochs=2), seed=7, world=20)
    assert [[(i.anchor, i.retain, i.refusal, i.retain_refusal, i.mismatch, i.world) for i in of.step(step)]
            for step in range(3)] == [
        [(2, 52, 0, 5, 11, 10), (0, 83, 7, 9, 48, 5), (4, 49, 5, 0, 24, 10)],
        [(1, 74, 1, 8, 62, 13), (3, 53, 7, 8, 5, 9), (3, 81, 2, 5, 2, 18)],
        [(0, 3, 9, 0, 23, 15), (2, 65, 6, 7, 33, 16), (1, 92, 2, 5, 72, 1)],
    ]  # fmt: skip
    assert [item.alternative for item in of.step(0)] == pytest.approx([0.4716429, 0.7842137, 0.9522499], abs=1e-7)


def test_no_two_companions_come_from_one_number() -> None:
    """Of as many of each kind, two that were drawn alike would be the same ones for every anchor."""
    found = items(Schedule(50, 10, 10, OptimSpec(batch_size=50, epochs=1), seed=0, world=10))
    drawn = [
        [(each.retain, each.refusal, each.retain_refusal, each.mismatch, int(10 * each.alternative), each.world)[place]
         for each in found]
        for place in range(6)
    ]  # fmt: skip
    assert all(one != other for one, other in combinations(drawn, 2))


def test_fixed_pairing_repeats_each_epoch_and_fresh_pairing_does_not() -> None:
    def companions(pairing: Literal["fresh", "fixed"]) -> dict[int, set[tuple[int, int, int, int]]]:
        found: dict[int, set[tuple[int, int, int, int]]] = {}
        for item in items(schedule(8, 1000, batch_size=8, epochs=5, pairing=pairing)):
            companion = (item.retain, item.refusal, item.retain_refusal, item.mismatch)
            found.setdefault(item.anchor, set()).add(companion)
        return found

    assert {len(each) for each in companions("fixed").values()} == {1}
    assert {len(each) for each in companions("fresh").values()} == {5}


def test_fixed_pairing_sees_as_many_retain_items_as_there_are_anchors_at_most() -> None:
    """forget01 with the published pairing: 40 of 3,960 retain items, however long it trains."""
    assert len({item.retain for item in items(schedule(40, 3960, epochs=20, pairing="fixed"))}) <= 40
    assert len({item.retain for item in items(schedule(40, 3960, epochs=20))}) > 400


def test_companions_do_not_depend_on_the_batch_size() -> None:
    """They are drawn by (seed, epoch, anchor): the same items, only cut into other steps."""
    small, large = (items(schedule(12, batch_size=size, epochs=2)) for size in (3, 6))
    assert small == large


def test_an_anchor_meets_its_neighbours_alone() -> None:
    """The same number that draws from all retain items draws from the neighbours: of 100 and of 4 in proportion."""
    near = ((10, 11, 12, 13), (20, 21, 22, 23), (30, 31, 32, 33), (40,))
    optim = OptimSpec(batch_size=4, epochs=10)
    of, free = (Schedule(4, 100, 10, optim, 0, neighbours=each) for each in (near, None))
    met: dict[int, set[int]] = {}
    for one, other in zip(items(of), items(free), strict=True):
        met.setdefault(one.anchor, set()).add(one.retain)
        assert one.retain == near[one.anchor][other.retain * len(near[one.anchor]) // 100]
        assert (one.anchor, one.mismatch, one.refusal) == (other.anchor, other.mismatch, other.refusal)
    assert met == {0: {10, 11, 12, 13}, 1: {20, 21, 22, 23}, 2: {30, 31, 32, 33}, 3: {40}}


def test_retain_rows_that_are_anchors_meet_themselves() -> None:
    of = Schedule(6, 6, 10, OptimSpec(batch_size=6, epochs=3), 0, of_retain=True)
    assert all(item.retain == item.anchor for item in items(of))
    assert any(item.retain != item.anchor for item in items(schedule(6, 6, batch_size=6, epochs=3)))


def test_epochs_may_be_cut() -> None:
    """floor(floor(2.5 x 13) / 4) = floor(32 / 4); the last half epoch begins where the second ends."""
    of = schedule(13, batch_size=4, epochs=2.5)
    assert of.steps == 8
    assert of.steps_per_epoch == 3
    assert of.warmup_steps == 3
    assert len({item.anchor for item in items(of)[:13]}) == 13


def test_the_learning_rate_by_hand() -> None:
    """10 steps, 2 of warm-up: 0, 1/2, then 8/8 down to 1/8 of the peak; constant behind it where that is asked for."""
    of = schedule(20, batch_size=10, epochs=5, warmup_steps=2, learning_rate=8.0)
    assert [of.learning_rate(step) for step in range(10)] == pytest.approx([0, 4, 8, 7, 6, 5, 4, 3, 2, 1])
    one = schedule(20, batch_size=10, epochs=5, warmup_steps=9, learning_rate=8.0)
    assert one.learning_rate(9) == pytest.approx(8.0)
    assert one.learning_rate(8) == pytest.approx(8.0 * 8 / 9)


def test_seeds_give_other_orders_and_companions() -> None:
    first, second = (items(schedule(12, batch_size=12, epochs=1, seed=seed)) for seed in (0, 1))
    assert [item.anchor for item in first] != [item.anchor for item in second]
    assert [item.retain for item in first] != [item.retain for item in second]


def test_any_process_computes_the_same_schedule() -> None:
    """Written down, because every worker computes it on its own, and a resumed run must repeat it."""
    first = schedule(5, batch_size=5, epochs=2).step(0)
    assert first == schedule(5, batch_size=5, epochs=2).step(0)
    assert schedule(5, batch_size=5, epochs=2).step(1) == items(schedule(5, batch_size=5, epochs=2))[5:]
    assert [item.anchor for item in first] == [2, 4, 3, 0, 1]
    assert [item.retain for item in first] == [51, 99, 3, 44, 84]


class Lengths(Texts):
    """Texts without words: that of anchor n has (7 n) % 11 + 1 tokens."""

    def __init__(self) -> None:
        self._sets = Sets([Row(str(number), "") for number in range(50)])

    def __getitem__(self, key: TextKey) -> Encoded:
        return Encoded((0,) * (7 * int(key[1][0]) % 11 + 1), 0)


sizes = st.integers(1, 40)


@given(batch=sizes, micro=st.integers(1, 8), workers=st.integers(1, 6))
def test_workers_share_a_step_and_change_nothing_of_it(batch: int, micro: int, workers: int) -> None:
    """Every item of the step goes to one worker, all make equally many passes, none of nothing, and none is larger than
    asked for, if single items can be shared evenly."""
    batch = max(batch, workers)
    step = schedule(50, batch_size=batch).step(0)
    parts = micro_batches(Lengths(), step, Pass.FORGET, micro, workers)
    assert sorted(item.anchor for part in parts for item in part) == sorted(item.anchor for item in step)
    assert len(parts) % workers == 0
    assert min(map(len, parts)) > 0
    assert max(map(len, parts)) <= (micro if batch % workers == 0 else max(micro, 2))


def test_single_items_that_workers_cannot_share_evenly_go_in_pairs() -> None:
    """Five items one at a time on two workers: two rounds, of which one worker has a pair."""
    parts = micro_batches(Lengths(), schedule(50, batch_size=5).step(0), Pass.FORGET, 1, 2)
    assert [len(part) for part in parts] == [2, 1, 1, 1]


@given(left=st.integers(1, 8), micro=st.integers(1, 4), workers=st.integers(1, 6))
def test_every_worker_has_items_of_what_early_drop_leaves(left: int, micro: int, workers: int) -> None:
    step = schedule(8, batch_size=8).step(0)
    drop = EarlyDrop(None, (), frozenset(), dropped={item.anchor for item in step[left:]})  # type: ignore[arg-type]
    parts = micro_batches(Lengths(), drop.left(step, workers), Pass.FORGET, micro, workers)
    assert min(map(len, parts)) > 0
    assert len(set(Counter(item.anchor for part in parts for item in part).values())) == 1  # repeated alike


@given(anchors=sizes, batch=sizes, epochs=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_every_anchor_comes_once_an_epoch(anchors: int, batch: int, epochs: int, seed: int) -> None:
    visited = items(schedule(anchors, 7, batch_size=batch, epochs=epochs, seed=seed))
    for start in range(0, len(visited) - anchors + 1, anchors):
        assert sorted(item.anchor for item in visited[start : start + anchors]) == list(range(anchors))
    counts = Counter(item.anchor for item in visited)
    assert max(counts.values()) - min(counts[anchor] for anchor in range(anchors)) <= 1


@given(anchors=sizes, retain=sizes, batch=sizes, seed=st.integers(0, 2**32))
def test_companions_are_items_that_exist(anchors: int, retain: int, batch: int, seed: int) -> None:
    for item in items(schedule(anchors, retain, batch_size=batch, epochs=2, seed=seed)):
        assert 0 <= item.retain < retain
        assert 0 <= item.mismatch < retain
        assert 0 <= item.refusal < 10
        assert 0 <= item.retain_refusal < 10


@given(
    anchors=sizes,
    batch=sizes,
    epochs=st.floats(0.1, 5),
    warmup=st.none() | st.integers(0, 10),
    kind=st.sampled_from(["linear", "constant"]),
)
def test_the_learning_rate_stays_between_zero_and_its_peak(
    anchors: int, batch: int, epochs: float, warmup: int | None, kind: str
) -> None:
    of = schedule(anchors, batch_size=batch, epochs=epochs, warmup_steps=warmup, schedule=kind, learning_rate=1.0)
    rates = [of.learning_rate(step) for step in range(of.steps)]
    assert all(0 <= rate <= 1 for rate in rates)
