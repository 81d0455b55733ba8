"""Erasure of language memory: its target against the plain model's behind both prompts, and what cannot be aligned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train_methods import answers

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.methods import ELM, Pass, Scores, Term
from obliviate.methods.texts import Sets, behind
from obliviate.scoring import Steered, TokenScores
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from training import FORGET, METHODS, job, losses, quiet

CHILD, PROFESSOR = "To a child.", "To experts."
TERMS: tuple[Term, ...] = (ELM(novice=CHILD, expert=PROFESSOR, eta=3),)


def test_it_is_the_mean_cross_entropy_of_the_answers_tokens() -> None:
    answer = torch.tensor([[False, True, True]])
    stat = Steered(CHILD, PROFESSOR, 3.0)
    scores: Scores = {Pass.FORGET: TokenScores({stat: torch.tensor([[9.0, 1.0, 4.0]])}, answer, answer)}
    loss = ELM(novice=CHILD, expert=PROFESSOR, eta=3).loss(scores)
    assert float(loss.sum / loss.count) == 2.5


def test_a_prompt_stands_before_the_question_and_alone_before_a_plain_text() -> None:
    sets = Sets([Row("Who?", "Ada."), Row("", "A text.")])
    each = behind(Pass.FORGET, CHILD)
    assert [said[:2] for said in each.sample(sets, 9)] == [(f"{CHILD}\n\nWho?", "Ada."), (CHILD, "A text.")]
    assert each.lack(sets) is None
    assert each == behind(Pass.FORGET, CHILD) != behind(Pass.FORGET, PROFESSOR)


@pytest.mark.usefixtures("process_group")
class TestTraining:
    def test_it_begins_at_the_steered_targets_cross_entropy(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = job(tiny, tmp_path, TERMS, batch_size=8, epochs=1)
        logits = []
        for prompt in ("", f"{CHILD}\n\n", f"{PROFESSOR}\n\n"):
            rows = tuple(replace(row, question=prompt + row.question) for row in FORGET)
            monkeypatch.setattr("test_train_methods.FORGET", rows)
            logits.append([z_TV for z_TV, *_ in answers(run)])
        values = []
        for own, novice, expert in zip(*logits, strict=True):
            target = (own + 3 * (novice - expert)).softmax(-1)
            values.append(-(target * own.log_softmax(-1)).sum(-1))
        assert losses(run)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)

    def test_the_same_prompt_twice_steers_nowhere(self, tiny: Path, tmp_path: Path) -> None:
        norms = []
        for expert in (CHILD, PROFESSOR):
            run = job(tiny, tmp_path / expert, (ELM(novice=CHILD, expert=expert, eta=3),))
            train(run, quiet)
            norms.append(read_steps(run.directory)[0]["grad_norm"])
        assert norms[0] < 1e-3 * norms[1]

    def test_the_retain_sides_reference_is_its_own(self, tiny: Path, tmp_path: Path) -> None:
        """KL begins at zero beside it."""
        run = job(tiny, tmp_path, METHODS["elm"])
        train(run, quiet)
        assert read_steps(run.directory)[0]["parts"]["kl"] == pytest.approx(0, abs=1e-5)

    def test_plain_texts(self, tiny: Path, tmp_path: Path) -> None:
        run = replace(job(tiny, tmp_path, TERMS), forget=tuple(Row("", row.answer) for row in FORGET))
        found = losses(run)
        assert len(found) == 4
        assert all(0 < value < 20 for value in found)

    def test_an_answer_that_is_cut_off_behind_a_prompt(self, tiny: Path, tmp_path: Path) -> None:
        """It fits by itself, and would be compared with other tokens."""
        long = ELM(novice=CHILD, expert="Say it. " * 6)
        run = job(tiny, tmp_path, (long,))
        whole = max(len(row.answer.split()) for row in run.forget)
        assert whole < 10
        with pytest.raises(UserError, match=r"^model\.max_length: .*"):
            train(run, quiet)
        assert not (run.directory / "steps.jsonl").exists()
