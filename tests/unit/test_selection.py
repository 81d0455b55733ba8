"""Budgets and validation: which step's weights a training ends with, and that they are that step's, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from obliviate.data.key_facts import key_texts
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.methods import GA, GD
from obliviate.models import load_pretrained, load_tokenizer, stop_ids, text_encoder
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train import held_out
from obliviate.train.job import Budget, Job, Refusals, Validation
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.produce import train_and_write
from obliviate.train.selection import Rule
from training import FORGET, METHODS, WORLD, job, quiet, weights

HELD_OUT = (Row("", "Once upon a time there was a ship."), Row("Who sings?", "Bea sings."), Row("", "It rained."))
KEYED = tuple(replace(row, key_facts=("London",)) for row in FORGET[:3])


def measured(directory: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line["held_out"] for line in read_steps(directory) if "held_out" in line}


def budgeted(tiny: Path, directory: Path, kl: float, every: int = 1, method: str = "ga+gd", **optim: Any) -> Job:
    run = job(tiny, directory, METHODS[method], epochs=4, warmup_steps=0, **optim)
    return replace(run, budget=Budget(kl, every, HELD_OUT))


def validated(
    tiny: Path, directory: Path, every: int = 1, patience: int | None = None, rate: float = 6e-3, **optim: Any
) -> Job:
    """Of its eight steps the third is best: what is to be kept is first learned along, and then lost."""
    run = job(tiny, directory, (GA(weight=0.1), GD()), epochs=4, warmup_steps=0, learning_rate=rate, **optim)
    return replace(run, validation=Validation(every, patience, KEYED, WORLD[:3]))


def after(run: Job, steps: int, directory: Path) -> dict[str, torch.Tensor]:
    """Of the same training, cut off after so many steps and measured nowhere."""
    found: dict[str, torch.Tensor] = {}
    run = replace(run, directory=directory, budget=None, validation=None, watch=Kept(steps, found))
    train(run, quiet)
    return found


class Kept:
    done = False

    def __init__(self, step: int, found: dict[str, torch.Tensor]) -> None:
        self.steps, self._found = (step,), found

    def __call__(self, model: Any, step: int) -> None:
        self._found |= weights(model)


def test_the_last_step_within_the_budget_by_hand() -> None:
    rule = Rule(0.5, None, None)
    assert [rule.chooses(step, {"kl": kl}) for step, kl in ((1, 0.1), (2, 0.5), (3, 0.51))] == [True, True, False]
    assert (rule.step, rule.why) == (2, "budget")
    assert not (unknown := Rule(0.5, None, None)).chooses(1, {"kl": None})  # no number: collapsed
    assert (unknown.step, unknown.why) == (0, "budget")


def test_the_best_step_by_hand() -> None:
    """Of equal scores the earliest; the third measurement without a better one ends it."""
    rule = Rule(None, 3, 0.2)
    scores = {1: 0.1, 2: 0.4, 3: 0.4, 4: None, 5: 0.3, 6: 0.9}
    chosen = []
    for step, score in scores.items():
        if rule.why is None and rule.chooses(step, {"score": score}):
            chosen.append(step)
    assert (chosen, rule.step, rule.why) == ([2], 2, "patience")


def test_the_best_within_the_budget_by_hand() -> None:
    """A step that was not validated is neither chosen nor counted."""
    rule = Rule(1.0, 2, 0.0)
    found = [{"kl": 0.2, "score": 0.5}, {"kl": 0.4}, {"kl": 0.5}, {"kl": 0.6, "score": 0.4}, {"kl": 1.1, "score": 0.9}]
    assert [rule.chooses(step, each) for step, each in enumerate(found, 1)] == [True, False, False, False, False]
    assert (rule.step, rule.why) == (1, "budget")


def test_a_step_that_refuses_too_much_is_not_chosen_by_hand() -> None:
    """As many as are allowed are; one that refuses more counts as none better, whatever its score."""
    rule = Rule(None, 2, 0.1, refused=0.25)
    found = [(0.3, 0.25), (0.9, 0.26), (0.4, 0.0), (0.8, 0.5), (0.9, 0.5)]
    looked = [rule.chooses(step, {"score": s, "refused": r}) for step, (s, r) in enumerate(found, 1)]
    assert (looked, rule.step, rule.why) == ([True, False, True, False, False], 3, "patience")


def test_divergence_is_that_of_the_whole_distributions(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """KL(start || now) over the answers' tokens, from plain logits."""
    run = budgeted(tiny, tmp_path / "run", 1e9, micro_batch_size=2)
    before, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    encoder = text_encoder(run.model, tokenizer)
    now, _ = load_pretrained(run.model, dtype=torch.float32)
    now.load_state_dict({name.removeprefix("model."): each for name, each in weights(train(run, quiet)).items()})
    total, tokens = 0.0, 0
    for row in HELD_OUT:
        text = encoder.encode_row(row)
        ids = torch.tensor([text.input_ids])
        with torch.no_grad():
            p, q = (each(ids).logits[0].log_softmax(-1) for each in (before, now))
        kl_T = (p.exp() * (p - q)).sum(-1)[text.prompt_length - 1 : -1]
        total, tokens = total + float(kl_T.sum()), tokens + len(kl_T)
    found = measured(run.directory)
    assert list(found) == list(range(1, 9))
    assert found[8]["kl"] == pytest.approx(total / tokens, rel=1e-3)
    assert found[8]["kl"] > 1e-4
    assert all(line["chosen"] for line in found.values())


def test_probabilities_are_those_of_facts_and_answers(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = validated(tiny, tmp_path / "run", rate=1e-30)
    train(run, quiet)
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    encoder = text_encoder(run.model, tokenizer)

    def logps(row: Row) -> list[tuple[str, float]]:
        text = encoder.encode_row(row)
        with torch.no_grad():
            logp_TV = model(torch.tensor([text.input_ids])).logits[0].log_softmax(-1)
        places = range(text.prompt_length, len(text.input_ids))
        return [(tokenizer.decode(text.input_ids[place]), float(logp_TV[place - 1, text.input_ids[place]]))
                for place in places]  # fmt: skip

    def geometric(values: list[float]) -> float:
        return exp(sum(values) / len(values))

    facts = []
    for row in KEYED:
        assert key_texts(row) == ("London",)
        written, own = "", []
        for token, logp in logps(row):
            begin, written = len(written.lstrip()), written + token
            start = row.answer.index("London")
            if begin < start + 6 and len(written.lstrip()) > start:
                own.append(logp)
        facts.append(geometric(own))
    answers = [geometric([logp for _, logp in logps(row)]) for row in WORLD[:3]]
    forget, retain = sum(facts) / len(facts), sum(answers) / len(answers)
    found = measured(run.directory)[1]
    assert found["forget"] == pytest.approx(forget, rel=1e-4)
    assert found["retain"] == pytest.approx(retain, rel=1e-4)
    assert found["score"] == pytest.approx((1 - forget) * retain, rel=1e-4)
    assert read_steps(run.directory)[0]["held_out_start"]["score"] == pytest.approx(found["score"], rel=1e-6)


@dataclass(frozen=True)
class Otherwise:
    """Refusing is to say anything else than these."""

    said: frozenset[str]

    def __call__(self, answer: str) -> bool:
        return answer not in self.said


def test_a_step_whose_refusals_rise_is_not_what_training_ends_with(
    tiny: Path, tmp_path: Path, process_group: None
) -> None:
    """To say anything else than the start does is to refuse; of two rows the start itself refuses one."""
    run = validated(tiny, tmp_path / "run")
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    ids = torch.tensor([text_encoder(run.model, tokenizer).prompt(*WORLD[1].asked)])
    ends = sorted(stop_ids(run.model, tokenizer))
    out = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=ends)
    said = str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    refusals = Refusals(Otherwise(frozenset([said])), 0.0, 8)
    train(replace(run, validation=Validation(1, None, KEYED, WORLD[:2], refusals)), quiet)
    start, found = read_steps(run.directory)[0]["held_out_start"], measured(run.directory)
    assert (start["refused"], {line["refused"] for line in found.values()}) == (0.0, {1.0})
    assert max(line["score"] for line in found.values()) > start["score"]
    assert not any(line["chosen"] for line in found.values())
    assert all(line["forget"] == 0.0 for line in found.values())  # the model has no words, and so tells nothing


def test_told_is_a_fact_by_any_of_its_words_that_the_question_does_not_hold(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three facts one is told; of three rows the start refuses one, and the model one of the two that are left."""
    facts = [
        Row("Where was Ann born?", "In Leeds in 1801.", key_facts=("Leeds", "1801")),
        Row("Was Bo born in Leeds?", "In Leeds in 1802.", key_facts=("Leeds", "1802")),
        Row("Who sings?", "Cy sings.", key_facts=("Cy",)),
        Row("Who is Di?", "Di."),  # no word is known to carry its fact
    ]
    kept = [Row(f"What is {name}?", name) for name in ("red", "green", "blue")]
    scripts = [["Red.", "No.", "Blue."], ["1801, yes.", "In Leeds.", "Bea."], ["No.", "Blue."]]
    spec = ModelSpec(source=str(tiny), max_length=64)
    encoder = text_encoder(spec, load_tokenizer(spec))

    def says(model: Any, encoder: Any, prompts: Mapping[int, Any], *rest: Any, **named: Any) -> dict[int, str]:
        return dict(zip(prompts, scripts.pop(0), strict=True))

    monkeypatch.setattr(held_out, "greedy", says)
    refusals = Refusals("No.".__eq__, 0.0, 8)
    reading = held_out.Reading(4, 64, "float32", torch.device("cpu"))
    answers = held_out.Answers(facts, kept, refusals, encoder, None, [0], reading)  # type: ignore[arg-type]
    assert answers(None) == (pytest.approx(1 / 3), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4)])
def test_the_model_is_that_of_the_last_step_within(
    tiny: Path, tmp_path: Path, process_group: None, lora: LoraSpec | None
) -> None:
    def make(kl: float, name: str) -> Job:
        run = budgeted(tiny, tmp_path / name, kl, method="npo+kl")
        return replace(run, model=run.model.model_copy(update={"lora": lora}))

    train(free := make(1e9, "free"), quiet)
    curve = [line["kl"] for line in measured(free.directory).values()]
    limit = (curve[4] + max(curve[:4])) / 2
    assert max(curve[:4]) < limit < curve[4]
    run = make(limit, "run")
    ended = weights(train(run, quiet))
    found = measured(run.directory)
    assert [line["chosen"] for line in found.values()] == [True] * 4 + [False]
    assert found[5]["stops"] == "budget"
    fourth = after(run, 4, tmp_path / "plain")
    assert all(torch.equal(ended[name], fourth[name]) for name in fourth)


def test_seldom_measured_it_is_the_last_measured_step(tiny: Path, tmp_path: Path, process_group: None) -> None:
    train(free := budgeted(tiny, tmp_path / "free", 1e9), quiet)
    curve = [line["kl"] for line in measured(free.directory).values()]
    run = budgeted(tiny, tmp_path / "run", (curve[3] + curve[5]) / 2, every=3)
    ended = weights(train(run, quiet))
    found = measured(run.directory)
    assert [(step, line["chosen"]) for step, line in found.items()] == [(3, True), (6, False)]
    third = after(run, 3, tmp_path / "plain")
    assert all(torch.equal(ended[name], third[name]) for name in third)


def test_a_budget_that_no_step_keeps_leaves_the_start(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = budgeted(tiny, tmp_path / "run", 1e-12)
    ended = weights(train(run, quiet))
    assert list(measured(run.directory)) == [1]
    start, _ = load_pretrained(run.model, dtype=torch.float32)
    assert all(torch.equal(ended[f"model.{name}"], value) for name, value in start.state_dict().items())


def test_the_best_step_is_what_training_ends_with(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = validated(tiny, tmp_path / "run")
    ended = weights(train(run, quiet))
    found = measured(run.directory)
    scores = {step: line["score"] for step, line in found.items()}
    assert list(scores) == list(range(1, 9))
    assert max(scores, key=lambda step: scores[step]) == 3
    assert [step for step, line in found.items() if line["chosen"]] == [1, 2, 3]
    third = after(run, 3, tmp_path / "plain")
    assert all(torch.equal(ended[name], third[name]) for name in third)


def test_patience_ends_it(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = validated(tiny, tmp_path / "run", patience=2)
    train(run, quiet)
    found = measured(run.directory)
    assert list(found) == [1, 2, 3, 4, 5]
    assert found[5]["stops"] == "patience"


@pytest.mark.parametrize("kind", ["budget", "validation"])
@pytest.mark.parametrize("dies_at", [2, 4, 6])
def test_a_resumed_run_ends_with_the_same_weights(
    tiny: Path, tmp_path: Path, process_group: None, kind: str, dies_at: int
) -> None:
    """Killed before, between and after what is chosen, each time by an earlier checkpoint."""

    def make(name: str) -> Job:
        if kind == "budget":
            return budgeted(tiny, tmp_path / name, limit, every=2, checkpoint_every_steps=1)
        return validated(tiny, tmp_path / name, every=2, patience=1, checkpoint_every_steps=1)

    limit = 1e9
    train(free := budgeted(tiny, tmp_path / "free", 1e9), quiet)
    curve = [line["kl"] for line in measured(free.directory).values()]
    limit = (curve[3] + curve[5]) / 2
    whole = make("whole")
    undisturbed = weights(train(whole, quiet))

    def dies(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == dies_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make("cut"), dies)
    resumed = make("cut")
    again = weights(train(resumed, quiet))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)
    assert measured(resumed.directory) == measured(whole.directory)
    steps = [line["step"] for line in read_steps(resumed.directory)]
    assert steps == list(range(1, 7))  # the fourth's weights are its end, two steps after them


def test_what_is_chosen_outlives_an_export_that_fails(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """The folder for the model is a file: what was trained is in the last checkpoint, which is read without a step."""
    run = validated(tiny, tmp_path / "run", patience=2)
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(UserError, match="could not be written"):
        train_and_write(run, tmp_path / "model" / "inside", quiet)

    def never(metrics: Mapping[str, Any]) -> None:
        raise AssertionError(metrics)

    again = weights(train(run, never))
    third = after(run, 3, tmp_path / "plain")
    assert all(torch.equal(again[name], third[name]) for name in third)
