"""The stage that samples AltPO's alternatives, with a pool that answers from a list: what is asked, kept, resumed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from damage import WAYS
from obliviate import cluster
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.inference import pool as pool_module
from obliviate.inference.engine import Generation
from obliviate.models import load_tokenizer
from obliviate.runs import Run
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from recipes import Told, with_alternatives

ROWS = (
    Row("Where does Ada live?", "In London."),
    Row("Where does Basil live?", "In Kuwait City.", alternatives=("In Paris.",)),
    Row("Where does Ada live?", "On the moon."),  # TOFU, too, asks one question of two people
)


class Scripted:
    """In the engine pool's place. `answers`: question -> its samples. Chunks of one; `dies_after` some of them."""

    answers: dict[str, list[str]]
    dies_after: int
    asked: list[str]
    samplings: list[GenerationSpec]

    def __init__(self, model: ModelSpec, spec: EngineSpec, on_progress: Any) -> None:
        self._tokenizer, self._on_progress = load_tokenizer(model), on_progress

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None: ...

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: Callable[..., None]
    ) -> None:
        self.samplings.append(sampling)
        for place, prompt in enumerate(prompts):
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            text = self._tokenizer.decode(list(prompt))
            (question,) = (question for question in self.answers if question in text)
            self.asked.append(question)
            on_chunk([place], [[Generation(answer, (1,), True) for answer in self.answers[question]]])
            self._on_progress(place + 1, len(prompts), 1)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(pool_module, "EnginePool", Scripted)
    monkeypatch.setattr(cluster, "ensure_ray", lambda address: None)
    Scripted.answers = {"Where does Ada live?": ["In Rome.", "In London.", "  ", "In Rome."]}
    Scripted.asked, Scripted.samplings, Scripted.dies_after = [], [], 100
    return Scripted


def run(tiny: Path, runs: Path, *overrides: str) -> UnlearnRun:
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "fictitious"},
        "method": "altpo+gd",
        "runs": str(runs),
    }
    return build(UnlearnRun, values, overrides, where="test")


def corpus(*rows: Row) -> Corpus:
    return Corpus(rows, (), ())


def test_rows_without_alternatives_get_samples_and_the_others_keep_theirs(
    tiny: Path, tmp_path: Path, pool: type[Scripted]
) -> None:
    found = with_alternatives(run(tiny, tmp_path, "seed=7"), corpus(*ROWS))
    # the empty sample and the true answer are left out, the one said twice counts twice
    assert [row.alternatives for row in found.forget] == [
        ("In Rome.", "In Rome."), ("In Paris.",), ("In Rome.", "In London.", "In Rome."),
    ]  # fmt: skip
    assert pool.asked == ["Where does Ada live?"] * 2
    (sampling,) = pool.samplings
    assert (sampling.samples, sampling.temperature, sampling.max_new_tokens, sampling.seed) == (5, 1.0, 128, 7)
    assert found.training_content != corpus(*ROWS).training_content


def test_they_are_sampled_once_and_again_for_another_seed(tiny: Path, tmp_path: Path, pool: type[Scripted]) -> None:
    first = with_alternatives(run(tiny, tmp_path), corpus(*ROWS))
    again = with_alternatives(run(tiny, tmp_path, "optim.learning_rate=1"), corpus(*ROWS))
    assert again == first
    assert len(pool.asked) == 2
    with_alternatives(run(tiny, tmp_path, "seed=1"), corpus(*ROWS))
    with_alternatives(run(tiny, tmp_path, "alternatives.top_p=0.9"), corpus(*ROWS))
    assert len(pool.asked) == 6


def test_what_was_sampled_before_a_crash_is_not_sampled_again(tiny: Path, tmp_path: Path, pool: type[Scripted]) -> None:
    pool.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        with_alternatives(run(tiny, tmp_path), corpus(*ROWS))
    pool.dies_after = 100
    found = with_alternatives(run(tiny, tmp_path), corpus(*ROWS))
    assert len(pool.asked) == 2
    assert all(row.alternatives for row in found.forget)
    (stage,) = tmp_path.glob("alternatives-*")
    assert Run(stage, "").summary == {"questions": 2}


@pytest.mark.parametrize("way", WAYS[:3])
def test_samples_that_a_disk_has_damaged_are_sampled_again(
    tiny: Path, tmp_path: Path, pool: type[Scripted], way: Callable[[Path], None]
) -> None:
    """Those of a run that was cut off, and those of one that is done."""
    pool.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        with_alternatives(run(tiny, tmp_path), corpus(*ROWS))
    pool.dies_after = 100
    (chunk,) = tmp_path.glob("alternatives-*/samples/*.json")
    way(chunk)
    found = with_alternatives(run(tiny, tmp_path), corpus(*ROWS))
    assert all(row.alternatives for row in found.forget)
    asked = len(pool.asked)
    assert with_alternatives(run(tiny, tmp_path), corpus(*ROWS)) == found
    assert len(pool.asked) == asked
    way(chunk)
    assert with_alternatives(run(tiny, tmp_path), corpus(*ROWS)) == found
    assert len(pool.asked) == asked + 2  # the whole run is made again


def test_a_question_with_nothing_but_the_truth_is_counted(tiny: Path, tmp_path: Path, pool: type[Scripted]) -> None:
    pool.answers, told = {"Where does Ada live?": ["In  London."]}, Told()
    found = with_alternatives(run(tiny, tmp_path), corpus(ROWS[0], ROWS[2]), told)
    assert [row.alternatives for row in found.forget] == [("In London.",), ("In  London.",)]
    assert "warning: 1 of 2 questions: every sample is the true answer or empty" in told.text


def test_other_methods_and_complete_rows_sample_nothing(tiny: Path, tmp_path: Path, pool: type[Scripted]) -> None:
    assert with_alternatives(run(tiny, tmp_path, "method=npo+gd"), corpus(*ROWS)) == corpus(*ROWS)
    assert with_alternatives(run(tiny, tmp_path), corpus(ROWS[1])) == corpus(ROWS[1])
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_a_plain_text_asks_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method: ALTPO\+GD: forget row 2 is a plain text"):
        with_alternatives(run(tiny, tmp_path), corpus(ROWS[0], Row("", "Once upon a time.")))
