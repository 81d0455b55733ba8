"""PISTOL: its contracts, ROUGE-1 and the deviation score."""

import json
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from measured import evaluate, record
from obliviate.data.pistol import PistolData
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.inference.hf import HFEngine
from obliviate.models import load_pretrained, load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.judges import Judges
from obliviate_eval.metrics import HitRate, MeanReciprocalRank, Rouge1
from obliviate_eval.records import Probe, ScoredAnswer, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites.pistol import PISTOL
from obliviate_eval.summary import summarise
from tiny import tiny_model_folder

EDGES = ("A_B", "A_C", "E1_F1", "E2_F2", "E1_q1")


def contracts() -> list[dict[str, str]]:
    """Two questions of each."""
    return [{"question": f"{edge} {i}?", "answer": f"{edge} {i}.", "edge": edge} for edge in EDGES for i in (1, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for sample in (1, 2):
        (tmp_path / f"sample_data_{sample}.json").write_text(json.dumps(contracts()))
    (tmp_path / "factual_data.json").write_text(json.dumps([{"question": "Who wrote 1984?", "answer": "Orwell"}]))
    return tmp_path


def test_one_contract_is_forgotten(folder: Path) -> None:
    corpus = PistolData(source=str(folder), factual=str(folder / "factual_data.json")).load()
    assert corpus.forget == (Row("A_C 1?", "A_C 1."), Row("A_C 2?", "A_C 2."))
    assert len(corpus.retain) == 8
    assert {s.name: (s.role, len(s.rows)) for s in corpus.evaluation} == {
        "forget": (Role.FORGET, 2), "retain": (Role.RETAIN, 8), "independent_sales": (Role.RETAIN, 4),
        "independent_employment": (Role.RETAIN, 2), "factual": (Role.WORLD_FACTS, 1),
    }  # fmt: skip
    two = PistolData(source=str(folder), sample=2, forget_edges=("A_B", "E1_F1"), eval_limit=3).load()
    assert {s.name: len(s.rows) for s in two.evaluation} == {"forget": 3, "retain": 3}  # sample 2 is one graph
    with pytest.raises(UserError, match=r"data\.forget_edges: A_D: no edge of the sample; it has A_B, A_C, E1_F1"):
        PistolData(source=str(folder), forget_edges=("A_C", "A_D")).load()
    with pytest.raises(UserError, match=r"data\.factual: .*gone\.json: no such file"):
        PistolData(source=str(folder), factual=str(folder / "gone.json")).load()


def test_the_hub_is_asked_for_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str, split: str) -> list[Any]:
        asked.append((*names, split))
        return contracts()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    PistolData(sample=2).load()
    assert asked == [("xinchiqiu/PISTOL", "pistol_data_2", "train")]


def test_rouge_1_is_a_share_of_words_in_any_order() -> None:
    def share(generation: str | None) -> float | None:
        return Rouge1().score(record(reference="the cat sat", generation=generation))

    assert share("sat, the cats") == 1
    assert share("a cat") == pytest.approx(1 / 3)
    assert share("") == 0
    assert share(None) is None


def test_ranks_by_hand() -> None:
    """Ranks 1, 4 and 200 of the words, and whatever the end has: (1 + 1/4 + 1/200) / 3, and two of three among 100."""

    def ranked(*rank: float, logp: float = -1.0) -> Any:
        answer = ScoredAnswer("", (logp,) * len(rank), (False,) * len(rank), rank=rank)
        return record(answers={Probe.MOMENTS: (answer,)})

    assert MeanReciprocalRank().score(ranked(1, 4, 200, 9)) == pytest.approx(1.255 / 3)
    assert HitRate().score(ranked(1, 4, 200, 9)) == pytest.approx(2 / 3)
    assert HitRate(k=3).score(ranked(1, 4, 200, 9)) == pytest.approx(1 / 3)
    for metric in (MeanReciprocalRank(), HitRate()):
        assert metric.score(ranked(nan, nan, logp=nan)) is None
        assert metric.score(ranked(1)) is None  # nothing but the end of turn
        assert metric.score(record()) is None


def test_ranks_of_a_model(tmp_path: Path) -> None:
    """Against the model's logits."""
    spec = ModelSpec(source=str(tiny_model_folder(tmp_path / "tiny")), chat_template="raw")
    engine = HFEngine.open(spec, EngineSpec(type="hf", dtype="float32", max_model_len=512))
    encoder = text_encoder(spec, load_tokenizer(spec))
    sets = (EvaluationSet("forget", Role.FORGET, (Row("Who?", "Ada writes books"),)),)
    evaluation = EvaluationSpec(suite="pistol", generation=GenerationSpec(max_new_tokens=4), resamples=100)
    found = evaluate(engine, encoder, sets, evaluation, Judges(), tmp_path)
    text = encoder.encode("Who?", "Ada writes books")
    model, _ = load_pretrained(spec, dtype=torch.float32)
    with torch.no_grad():
        z_TV = model(torch.tensor([text.input_ids])).logits[0]
    places = range(text.prompt_length, len(text.input_ids) - 1)  # without the end of turn
    ranks = [1 + int((z_TV[t - 1] > z_TV[t - 1, text.input_ids[t]]).sum()) for t in places]
    expected = sum(1 / rank for rank in ranks) / len(ranks)
    assert found.sets["forget"]["mean_reciprocal_rank"].value == pytest.approx(expected, rel=1e-6)
    [kept] = read_records(tmp_path / "records.parquet")
    assert kept.answers[Probe.MOMENTS][0].rank[:-1] == tuple(ranks)


def test_the_deviation_score_by_hand() -> None:
    """f = 0.3, r = 0.6: 100 sqrt(0.09 + 0.16) = 50. Contracts apart, which are kept as well, do not enter."""

    def items(role: Role, name: str, share: float) -> list[Any]:
        said = ["the cat sat" if i < 10 * share else "" for i in range(10)]
        return [record(role, set=name, index=i, generation=text) for i, text in enumerate(said)]

    records = [*items(Role.FORGET, "forget", 0.3), *items(Role.RETAIN, "retain", 0.6)]
    apart = items(Role.RETAIN, "independent_sales", 0.1)
    found = summarise([*records, *apart], PISTOL, resamples=100)
    score = found.aggregates["deviation_score"]
    assert score.value == pytest.approx(50)
    assert (score.scored, score.unscored) == (2, 0)
    assert found.sets["independent_sales"]["rouge_1"].value == pytest.approx(0.1)
    whole = [*items(Role.FORGET, "forget", 0), *items(Role.RETAIN, "retain", 1)]
    assert summarise(whole, PISTOL, resamples=100).aggregates["deviation_score"].value == 0
