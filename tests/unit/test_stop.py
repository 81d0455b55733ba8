"""Training that ends by itself: the rule by hand, and a loop that heeds it and remembers that it did."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train_methods import answers

from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.methods import GA, GD, MASC, TaskVector
from obliviate.schema import StopSpec
from obliviate.train.checkpoint import Cadence
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.produce import train_and_write
from obliviate.train.signal import Signal
from obliviate.train.stop import left
from training import job, quiet, weights


class TestLeft:
    @pytest.mark.parametrize(
        ("share", "expected"), [(1, (0 + 0 + 1 + 4 + 5) / 5), (0.6, 1 / 3), (0.41, 1 / 3), (0.4, 0), (0.01, 0)]
    )
    def test_by_hand(self, share: float, expected: float) -> None:
        """Shares of five tokens, rounded up; a margin below nothing is none, and makes up for no other."""
        assert left([4, -9, 1, 5, -1], share) == pytest.approx(expected)

    @given(st.lists(st.floats(-50, 50), min_size=1), st.floats(0.01, 1), st.floats(0.01, 1))
    def test_it_grows_with_the_share_and_does_not_know_of_order(
        self, margins: list[float], one: float, other: float
    ) -> None:
        less, more = sorted((one, other))
        assert 0 <= left(margins, less) <= left(margins[::-1], more) + 1e-9


@pytest.fixture
def learned(tiny: Path, tmp_path: Path) -> Path:
    """A model that says the forget set's answers: without one no token has a margin."""
    run = job(tiny, tmp_path / "learning", (TaskVector(),), learning_rate=1e-2, epochs=15, warmup_steps=0)
    train_and_write(run, tmp_path / "learned", quiet)
    return tmp_path / "learned"


@pytest.mark.usefixtures("process_group")
class TestTraining:
    def run(self, tiny: Path, folder: Path, spec: StopSpec | None, **optim: Any) -> Job:
        """Four epochs of two steps."""
        return replace(job(tiny, folder, (MASC(), GD(weight=0)), epochs=4, warmup_steps=0, **optim), stop=spec)

    def test_margins_are_the_plain_models(self, learned: Path, tmp_path: Path) -> None:
        """With a learning rate of nothing: at every epoch's end those of the starting model."""
        run = self.run(learned, tmp_path, StopSpec(margin=0, share=0.7), learning_rate=1e-30)
        margins: list[float] = []
        for z_TV, labels_T, _ in answers(run):
            true_T = z_TV.gather(-1, labels_T[:, None])[:, 0]
            others_TV = z_TV.scatter(-1, labels_T[:, None], -torch.inf)
            margins += (true_T - others_TV.amax(-1)).tolist()
        train(run, quiet)
        found = [line["stop"]["margin"] for line in read_steps(run.directory) if "stop" in line]
        assert left(margins, 0.7) > 0.1
        assert found == pytest.approx([left(margins, 0.7)] * 3, rel=1e-4)

    def test_it_ends_after_the_epoch_that_settles_it(self, tiny: Path, tmp_path: Path) -> None:
        """The first of four; what was trained so far is as it would be without the rule."""
        whole = self.run(tiny, tmp_path / "whole", None)
        short = self.run(tiny, tmp_path / "short", StopSpec(margin=99))
        train(whole, quiet)
        train(short, quiet)
        assert [line["step"] for line in read_steps(whole.directory)] == [*range(1, 9)]
        first = read_steps(short.directory)
        assert [(line["step"], line.get("stop", {}).get("settled")) for line in first] == [(1, None), (2, True)]
        assert [line["loss"] for line in first] == [line["loss"] for line in read_steps(whole.directory)[:2]]

    def test_a_checkpoint_of_the_end_is_known_to_be_that(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the clock may want one; it has no optimiser's state to go on with."""
        monkeypatch.setattr(Cadence, "__call__", lambda _, step, *, last=False: step == 2)
        run = self.run(tiny, tmp_path, StopSpec(margin=99))
        ended, logged = weights(train(run, quiet)), read_steps(run.directory)
        again = weights(train(run, quiet))
        assert read_steps(run.directory) == logged
        assert all(torch.equal(ended[name], again[name]) for name in ended)

    def test_a_resumed_run_knows_that_it_had_ended(self, tiny: Path, tmp_path: Path) -> None:
        """Killed where the last step is told: the checkpoint is of the step before, and the step is made again."""

        def dies(metrics: Mapping[str, Any]) -> None:
            if "stop" in metrics:
                raise KeyboardInterrupt

        run = self.run(tiny, tmp_path, StopSpec(margin=99), checkpoint_every_steps=1)
        with pytest.raises(KeyboardInterrupt):
            train(run, dies)
        train(run, quiet)
        assert [line["step"] for line in read_steps(run.directory)] == [1, 2]

    def test_whoever_watches_or_waits_for_the_last_signal_gets_it(self, tiny: Path, tmp_path: Path) -> None:
        seen: list[int] = []

        class Watching:
            steps, done = (0, 2, 8), False

            def __call__(self, model: Any, step: int) -> None:
                seen.append(step)

        run = replace(self.run(tiny, tmp_path, StopSpec(margin=99)), watch=Watching(), signal=Signal(4, 2))
        train(run, quiet)
        assert seen == [0, 2, 8]
        assert [line["signal"]["point"] for line in read_steps(run.directory) if "signal" in line] == [4]

    def test_masc_ends_by_itself(self, learned: Path, tmp_path: Path) -> None:
        """The objective lowers what the rule looks at, until the rule is met."""
        run = replace(job(learned, tmp_path, (MASC(),), epochs=20, warmup_steps=0), stop=StopSpec(margin=0.05))
        train(run, quiet)
        margins = [line["stop"]["margin"] for line in read_steps(run.directory) if "stop" in line]
        assert margins[0] > 0.05
        assert margins == sorted(margins, reverse=True)
        assert margins[-1] <= 0.05 < margins[-2]
        assert len(read_steps(run.directory)) < 40

    def test_any_objective_can_have_it(self, tiny: Path, tmp_path: Path) -> None:
        run = replace(job(tiny, tmp_path, (GA(),), epochs=4), stop=StopSpec(margin=99))
        train(run, quiet)
        assert len(read_steps(run.directory)) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "npo", "stop": {"margin": -1}}, r"stop\.margin: .*greater than or equal to 0"),
        ({"method": "npo", "stop": {"share": 0}}, r"stop\.share: .*greater than 0"),
        ({"method": "task_vector", "stop": {}}, r"stop: while task_vector trains, its model knows .*; remove stop"),
    ],
)
def test_mistakes_are_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}, where="test")
