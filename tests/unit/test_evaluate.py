"""A whole evaluation with an engine and judges that answer without a model."""

from collections.abc import Sequence
from math import exp, log, nan
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from measured import Characters, Parrot, evaluate
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.data.text import Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate.inference.engine import Generation
from obliviate_eval.judges import Judges, Pair
from obliviate_eval.records import RECORDS_FILE, Probe, read_records
from obliviate_eval.run import figures, records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import Evaluation, summarise

FORGET = Row("Who wrote Tide?", "Ada wrote it", "It was Ada", ("It was Bob", "It was Cyd"))
AUTHOR = Row("Who wrote Hamlet?", "Shakespeare", None, ("Marlowe",), original_answer="Hamlet is by Shakespeare")
SETS = (
    EvaluationSet("forget", Role.FORGET, (FORGET, FORGET)),  # the same question twice
    EvaluationSet("real_authors", Role.REAL_AUTHORS, (AUTHOR,)),
)
SAYS = {
    "Who wrote Tide?": Generation("Ada wrote Tide", (1, 2, 1, 2), True),
    "Who wrote Hamlet?": Generation("Shakespeare did", (3, 4), False),
}
LOGP = {
    "Ada wrote it": log(0.5), "It was Ada": log(0.4), "It was Bob": log(0.2), "It was Cyd": log(0.2),
    "Shakespeare": log(0.3), "Marlowe": log(0.1),
}  # fmt: skip


UNJUDGED = Judges()


class Recorder:
    """A judge that keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, list[Pair]()

    def __call__(self, pairs: Sequence[Pair]) -> list[Any]:
        self.asked += pairs
        return [self.answer] * len(pairs)


def run(directory: Path, parrot: Parrot | None = None, judges: Judges = UNJUDGED, **spec: Any) -> Evaluation:
    engine = parrot or Parrot(SAYS, LOGP)
    encoder = cast(TextEncoder, Characters())
    return evaluate(engine, encoder, SETS, EvaluationSpec(resamples=100, **spec), judges, directory)


def test_figures_by_hand(tmp_path: Path) -> None:
    found = run(tmp_path, judges=Judges(Recorder(0.8), Recorder("entailment")))
    forget, authors = found.sets["forget"], found.sets["real_authors"]
    assert forget["rouge"].value == pytest.approx(2 / 3)  # "Ada wrote" of "Ada wrote it"
    assert forget["probability"].value == pytest.approx(0.5)
    assert forget["truth_ratio"].value == pytest.approx(0.5)  # r = 0.4 / 0.2 = 2: 1 - 1/2
    assert forget["token_entropy"].value == pytest.approx(0.5)  # 1 bit of log2(4)
    assert forget["similarity"].value == pytest.approx(0.8)
    assert forget["entailment"].value == 1
    assert authors["probability"].value == pytest.approx(0.75)  # 0.3 / (0.3 + 0.1)
    assert authors["truth_ratio"].value == pytest.approx(2 / 3)  # r = 0.3 / 0.1: 1 - 1/3
    assert found.aggregates["forget_efficacy"].value == pytest.approx(1 - (2 / 3 + 0.5 + 0.5 + 0.8 + 1) / 5)
    # Rouge 1, probability 3/4, truth ratio 2/3, entropy 1, similarity 4/5, entailment 1: two sets are absent.
    utility = found.aggregates["model_utility"]
    assert utility.value == pytest.approx(6 / (1 + 4 / 3 + 3 / 2 + 1 + 5 / 4 + 1))
    assert (utility.scored, utility.unscored) == (6, 12)


def test_each_text_is_scored_and_generated_for_once(tmp_path: Path) -> None:
    parrot = Parrot(SAYS, LOGP)
    run(tmp_path, parrot)
    assert sorted(parrot.prompts) == ["Who wrote Hamlet?", "Who wrote Tide?"]
    assert sorted(answer for _, answer in parrot.texts) == sorted(LOGP)


def test_judges_compare_with_the_full_sentence_in_the_direction_of_the_role(tmp_path: Path) -> None:
    judges = Judges(Recorder(0.5), Recorder("neutral"))
    run(tmp_path, judges=judges)
    tide, hamlet = ("Ada wrote Tide", "Ada wrote it"), ("Shakespeare did", "Hamlet is by Shakespeare")
    assert cast(Recorder, judges.similarity).asked == [tide, tide, hamlet]
    assert cast(Recorder, judges.entailment).asked == [tide, tide, hamlet[::-1]]
    real = Judges(None, Recorder("neutral"))
    run(tmp_path, judges=real, suite="closer_look_real_world")
    assert cast(Recorder, real.entailment).asked == [tide, tide, hamlet]


def test_without_judges_their_metrics_are_unscored_and_counted(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert (found.sets["forget"]["entailment"].value, found.sets["forget"]["entailment"].unscored) == (None, 2)
    assert found.aggregates["forget_efficacy"].scored == 3


def test_tofu_asks_no_judge(tmp_path: Path) -> None:
    judges = Judges(Recorder(0.5), Recorder("neutral"))
    found = run(tmp_path, judges=judges, suite="tofu")
    assert cast(Recorder, judges.similarity).asked == []
    assert set(found.sets["forget"]) >= {"rouge", "probability", "truth_ratio", "extraction_strength"}
    assert found.sets["forget"]["truth_ratio"].value == pytest.approx(0.5)  # min(2, 1/2)


def test_files_hold_what_was_found_and_records_alone_give_it_again(tmp_path: Path) -> None:
    found = run(tmp_path, judges=Judges(Recorder(0.8), Recorder("entailment")))
    assert Evaluation.read(tmp_path / "metrics.json") == found
    read = read_records(tmp_path / "records.parquet")
    assert [(r.set, r.index) for r in read] == [("forget", 0), ("forget", 1), ("real_authors", 0)]
    assert read[0].answers[Probe.PERTURBED][0].text == "It was Bob"
    assert summarise(read, SUITES["closer_look"], resamples=100) == found


def test_a_retain_models_records_add_forget_quality(tmp_path: Path) -> None:
    run(tmp_path)
    read = read_records(tmp_path / "records.parquet")
    engine, encoder = Parrot(SAYS, LOGP), cast(TextEncoder, Characters())
    spec = EvaluationSpec(resamples=100)
    found = evaluate(engine, encoder, SETS, spec, Judges(), tmp_path / "again", reference_records=read)
    assert found.forget_quality is not None
    assert found.forget_quality.p_value == 1
    assert Evaluation.read(tmp_path / "again" / "metrics.json") == found


def test_a_collapsed_model_is_counted_as_unscored(tmp_path: Path) -> None:
    found = run(tmp_path, Parrot(SAYS, LOGP | {"Ada wrote it": nan, "It was Bob": nan}))
    assert found.sets["forget"]["probability"].unscored == 2
    assert found.sets["forget"]["truth_ratio"].unscored == 2
    assert found.sets["real_authors"]["probability"].value == pytest.approx(0.75)


@pytest.mark.parametrize(("probability", "collapsed"), [(0.009, True), (0.011, False), (0.049, False)])
def test_a_model_has_collapsed_below_a_hundredth(probability: float, collapsed: bool) -> None:
    kept = {"probability": Figure(probability, None, None, 1, 0)}
    found = Evaluation(suite="tofu", roles={"retain": Role.RETAIN, "forget": Role.FORGET},
                       sets={"retain": kept, "forget": {"probability": Figure(0.0, None, None, 1, 0)}},
                       aggregates={})  # fmt: skip
    assert found.collapsed == collapsed


def test_a_prompt_without_room_for_an_answer_is_unscored_and_silence_is_not(tmp_path: Path) -> None:
    no_room, silence = Generation("", (), False), Generation("", (), True)
    found = run(tmp_path, Parrot({"Who wrote Tide?": no_room, "Who wrote Hamlet?": silence}, LOGP))
    assert (found.sets["forget"]["rouge"].value, found.sets["forget"]["rouge"].unscored) == (None, 2)
    assert (found.sets["real_authors"]["rouge"].value, found.sets["real_authors"]["rouge"].scored) == (0.0, 1)


def test_rows_without_false_answers_lose_the_metrics_that_need_them(tmp_path: Path) -> None:
    sets = (EvaluationSet("retain", Role.RETAIN, (Row("Who wrote Tide?", "Ada wrote it"),)),)
    encoder = cast(TextEncoder, Characters())
    found = evaluate(Parrot(SAYS, LOGP), encoder, sets, EvaluationSpec(resamples=100), Judges(), tmp_path)
    assert found.sets["retain"]["truth_ratio"].unscored == 1
    assert found.sets["retain"]["probability"].value == pytest.approx(exp(log(0.5)))


def test_a_plain_text_is_scored_and_nothing_is_generated_for_it(tmp_path: Path) -> None:
    sets = (EvaluationSet("forget", Role.FORGET, (Row("", "Ada wrote it"),)),)
    parrot = Parrot({}, LOGP)
    found = evaluate(
        parrot, cast(TextEncoder, Characters()), sets, EvaluationSpec(resamples=100), UNJUDGED, tmp_path
    ).sets["forget"]
    assert parrot.prompts == []
    assert found["probability"].value == pytest.approx(0.5)
    assert (found["rouge"].scored, found["rouge"].unscored) == (0, 1)


def test_a_question_that_is_too_long_is_found_before_the_engine_begins(tmp_path: Path) -> None:
    class Narrow(Characters):
        def encode(self, question: str, answer: str, history: Sequence[Any] = (), prefix: str | None = None) -> Encoded:
            raise UserError("model.max_length")

    class Idle(Parrot):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("asked too early")

    with pytest.raises(UserError, match=r"model\.max_length"):
        evaluate(Idle(SAYS, LOGP), cast(TextEncoder, Narrow()), SETS, EvaluationSpec(resamples=100), UNJUDGED, tmp_path)


def test_progress_says_what_is_done(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    spec, encoder = EvaluationSpec(resamples=100), cast(TextEncoder, Characters())
    collected = records(Parrot(SAYS, LOGP), encoder, SETS, spec, tmp_path, lambda *step: seen.append(step))
    judges = Judges(Recorder(0.5), Recorder("neutral"))
    figures(collected, spec, judges, tmp_path, lambda *step: seen.append(step))
    assert seen == [
        ("generate", 0, 2), ("generate", 2, 2), ("score", 0, 6), ("score", 6, 6), ("judge", 0, 3), ("judge", 3, 3),
    ]  # fmt: skip


def test_several_samples_a_question_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"generation\.samples is 4"):
        EvaluationSpec.model_validate({"generation": {"samples": 4}})


def test_unreadable_metrics_are_users_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read"):
        Evaluation.read(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"suite": "closer_look"}')
    with pytest.raises(UserError, match=r"metrics\.json: no metrics\.json of an evaluation"):
        Evaluation.read(tmp_path / "metrics.json")


def test_every_suite_names_metrics_that_it_has() -> None:
    for suite in SUITES.values():
        types = {metric.type for metric in suite.metrics}
        assert all(set(aggregate.metrics) <= types for aggregate in suite.aggregates)
        assert set().union(*suite.sets.values()) <= types
        assert Probe.ENTAILMENT not in suite.needs or set(suite.premise) == set(Role) - {Role.HOLDOUT}
        known = {each.type for each in suite.comparisons}
        for aggregate in suite.aggregates:  # its parts stand before it
            assert set(aggregate.parts) <= known
            known.add(aggregate.name)


def test_moments_gradients_and_samples_are_measured_of_the_sets_that_ask(tmp_path: Path) -> None:
    """leakage asks for samples; the attacks of openunlearning for moments and gradients of forget and holdout alone."""
    parrot = Parrot(SAYS, LOGP)
    run(tmp_path / "internals", parrot, suite="openunlearning")
    forget, _, author = read_records(tmp_path / "internals" / "records.parquet")
    (answer,) = forget.answers[Probe.MOMENTS]
    assert (answer.text, answer.logp[0], answer.mean[0], answer.variance[0]) == ("Ada wrote it", log(0.5), -2, 1)
    assert forget.gradient_norm == len("Ada wrote it")
    assert Probe.MOMENTS not in author.answers
    assert author.gradient_norm is None
    assert sorted(text for _, text in parrot.texts) == sorted(LOGP)  # the answer's moments bring its log-probabilities
    run(tmp_path / "samples", suite="leakage", sampling={"temperature": 1.0, "samples": 3, "max_new_tokens": 8})
    forget, *_ = read_records(tmp_path / "samples" / "records.parquet")
    assert forget.samples == ("Ada wrote Tide 0", "Ada wrote Tide 1", "Ada wrote Tide 2")
    assert forget.gradient_norm is None


def test_samples_without_a_temperature_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"sampling\.temperature is 0"):
        EvaluationSpec.model_validate({"sampling": {"temperature": 0}})


def test_what_is_not_given_of_sampling_keeps_its_default() -> None:
    sampling = EvaluationSpec.model_validate({"sampling": {"top_p": 0.9}}).sampling
    assert (sampling.temperature, sampling.samples, sampling.top_p) == (1.0, 8, 0.9)


def test_fluency_is_judged_of_the_generation_alone(tmp_path: Path) -> None:
    asked: list[str] = []

    def clean(texts: Sequence[str]) -> list[float]:
        asked.extend(texts)
        return [0.25] * len(texts)

    found = run(tmp_path, judges=Judges(fluency=clean), suite="openunlearning")
    assert asked == ["Ada wrote Tide", "Ada wrote Tide", "Shakespeare did"]
    assert found.sets["forget"]["fluency"].value == 0.25


def test_an_endless_generation_is_measured_as_far_as_it_went(tmp_path: Path) -> None:
    endless = Generation("la " * 100, (7,) * 100, False)
    found = run(tmp_path, Parrot(dict.fromkeys(SAYS, endless), LOGP))
    assert found.sets["forget"]["token_entropy"].value == 0  # one token, repeated
    assert found.sets["forget"]["rouge"].value == 0
    assert read_records(tmp_path / "records.parquet")[0].generation_finished is False


def test_a_golden_answer_is_what_is_measured(tmp_path: Path) -> None:
    """As in "A Closer Look": ROUGE, probability and entailment of the fact, similarity to the answer trained on."""
    row = Row("Who wrote Tide?", "It was Ada, of course.", golden_answer="Ada")
    said = {"Who wrote Tide?": Generation("Ada", (1,), True)}
    cosine, labels = Recorder(0.8), Recorder("entailment")
    sets = (EvaluationSet("forget", Role.FORGET, (row,)),)
    spec = EvaluationSpec(resamples=100, suite="closer_look_real_world")
    found = evaluate(
        Parrot(said, {"Ada": log(0.5)}), cast(TextEncoder, Characters()), sets, spec, Judges(cosine, labels), tmp_path
    )
    assert found.sets["forget"]["rouge"].value == 1
    assert found.sets["forget"]["probability"].value == pytest.approx(0.5)
    assert cosine.asked == [("Ada", "It was Ada, of course.")]
    assert labels.asked == [("Ada", "Ada")]
    assert read_records(tmp_path / RECORDS_FILE)[0].similar_to == "It was Ada, of course."
