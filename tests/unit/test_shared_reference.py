"""Reference constants that trainings share: computed once, the same, and never those of another model or method."""

from dataclasses import replace
from pathlib import Path

import pytest

from obliviate.methods import DPO, GD, KL, NPO, Term
from obliviate.schema import ModelSpec
from obliviate.train import reference, shared_reference
from obliviate.train.job import Job
from tiny import tiny_model_folder
from training import job, losses


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The texts of every forward pass that was made for reference constants."""
    made: list[int] = []
    keep = reference._keep

    def counted(kept: object, model: object, each: object, batch: reference.Batch, *rest: object) -> None:
        made.append(len(batch.input_ids_BT))
        keep(kept, model, each, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(reference, "_keep", counted)
    return made


def sharing(tiny: Path, directory: Path, name: str, terms: tuple[Term, ...]) -> Job:
    return replace(job(tiny, directory / name, terms), shared_reference=directory / "reference")


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("terms", [(NPO(), GD()), (NPO(), KL())], ids=["log-probabilities", "hidden states"])
def test_the_second_training_runs_no_text_again(
    tiny: Path, tmp_path: Path, passes: list[int], terms: tuple[Term, ...]
) -> None:
    alone = losses(job(tiny, tmp_path / "alone", terms))
    passes.clear()
    first = losses(sharing(tiny, tmp_path, "first", terms))
    assert sum(passes) > 0
    passes.clear()
    second = losses(sharing(tiny, tmp_path, "second", terms))
    assert passes == []
    assert first == alone
    assert second == pytest.approx(first, rel=1e-6, abs=1e-9)


@pytest.mark.usefixtures("process_group")
def test_another_seed_adds_what_is_new(tiny: Path, tmp_path: Path, passes: list[int]) -> None:
    """Eight forget texts are known to the second; of the retain texts only those that its pairing newly draws run."""
    losses(sharing(tiny, tmp_path, "first", (NPO(), KL())))
    before = sum(passes)
    passes.clear()
    other = replace(sharing(tiny, tmp_path, "second", (NPO(), KL())), seed=1)
    alone = losses(replace(other, shared_reference=None, directory=tmp_path / "alone"))
    passes.clear()
    assert losses(other) == pytest.approx(alone, rel=1e-5, abs=1e-7)
    assert sum(passes) < before - 7


@pytest.mark.usefixtures("process_group")
def test_another_method_and_another_model_share_nothing(tiny: Path, tmp_path: Path) -> None:
    losses(sharing(tiny, tmp_path, "npo", (NPO(),)))
    losses(sharing(tiny, tmp_path, "dpo", (DPO(),)))
    other = tiny_model_folder(tmp_path / "other", seed=1)
    moved = sharing(tiny, tmp_path, "other-npo", (NPO(),))
    losses(replace(moved, model=ModelSpec(source=str(other), compute_dtype="float32", max_length=64)))
    assert len(list((tmp_path / "reference").glob("*.pt"))) == 3
    assert shared_reference.size(reference.Reference()) == 0
