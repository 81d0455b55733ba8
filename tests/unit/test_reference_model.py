"""What NPO and KL compare with may be another model than the one that training starts from."""

from dataclasses import replace
from pathlib import Path

import pytest

from obliviate.methods import GA, KL, NPO, Term
from obliviate.schema import ModelSpec
from tiny import tiny_model_folder
from training import job, losses

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tiny_model_folder(tmp_path_factory.mktemp("other") / "model", seed=1)
    return ModelSpec(source=str(folder), compute_dtype="float32", max_length=64)


@pytest.mark.parametrize("terms", [(NPO(),), (GA(), KL())])
def test_the_starting_model_by_name_is_the_default(tiny: Path, tmp_path: Path, terms: tuple[Term, ...]) -> None:
    plain = job(tiny, tmp_path / "a", terms)
    named = replace(job(tiny, tmp_path / "b", terms), reference=plain.model)
    assert losses(named) == losses(plain)


def test_npo_starts_away_from_its_value_at_the_reference(tiny: Path, tmp_path: Path, other: ModelSpec) -> None:
    """Where model and reference agree, NPO is 2/beta log 2 = 13.86; where they differ, it is not."""
    at_home = losses(job(tiny, tmp_path / "a", (NPO(),)))
    abroad = losses(replace(job(tiny, tmp_path / "b", (NPO(),)), reference=other))
    assert at_home[0] == pytest.approx(13.8629, abs=1e-3)
    assert abs(abroad[0] - 13.8629) > 0.1


def test_kl_starts_at_its_distance_from_the_reference(tiny: Path, tmp_path: Path, other: ModelSpec) -> None:
    _, at_home, *_ = losses(job(tiny, tmp_path / "a", (GA(), KL())))
    _, abroad, *_ = losses(replace(job(tiny, tmp_path / "b", (GA(), KL())), reference=other))
    assert at_home == pytest.approx(0, abs=1e-5)
    assert abroad > 0.01
