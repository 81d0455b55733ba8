"""Records made by hand, and an engine that answers without a model, for tests of evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from obliviate.data.rows import EvaluationSet, Role
from obliviate.data.text import Encoded, Heard, TextEncoder
from obliviate.inference.engine import Generation, ScoredText, WhiteBox
from obliviate.schema import GenerationSpec
from obliviate_eval.judges import Judges
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.run import figures, records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import Evaluation


def answers(*mean_logps: float, tokens: int = 2) -> tuple[ScoredAnswer, ...]:
    """Scored answers with these means, in nats per token."""
    return tuple(ScoredAnswer("", (logp,) * tokens) for logp in mean_logps)


def record(role: Role = Role.RETAIN, **fields: Any) -> Record:
    """A record of set `role`, with the reference "the cat sat" unless told otherwise."""
    defaults: dict[str, Any] = {
        "set": role.value, "index": 0, "question": "What did the cat do?", "reference": "the cat sat",
    }  # fmt: skip
    merged = defaults | fields
    return Record(role=role, **({"full_reference": merged["reference"]} | merged))


def scored(role: Role, right: float, wrong: Sequence[float], **fields: Any) -> Record:
    """A record with mean log-probabilities of the true answer and its paraphrase (both `right`) and of false ones."""
    texts: Mapping[Probe, tuple[ScoredAnswer, ...]] = {
        Probe.ANSWER: answers(right), Probe.PARAPHRASED: answers(right), Probe.PERTURBED: answers(*wrong),
    }  # fmt: skip
    return record(role, answers=dict(texts), **fields)


def evaluate(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    spec: EvaluationSpec,
    judges: Judges,
    directory: Path,
    **others: Any,
) -> Evaluation:
    """Records and figures in one folder."""
    collected = records(engine, text_encoder, sets, spec, directory)
    return figures(collected, spec, judges, directory, **others)


class Characters:
    """A text encoder whose tokens are characters: one to one with what the engine below reads."""

    asks_for_date = False

    def places(self, text: Encoded, answer: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return tuple(place for start, end in spans for place in range(start, end))

    def prompt(self, question: str, history: Sequence[Any] = (), prefix: str | None = None) -> tuple[int, ...]:
        return tuple(map(ord, question))

    def encode(self, question: str, answer: str, history: Sequence[Any] = (), prefix: str | None = None) -> Encoded:
        return Encoded(self.prompt(question) + tuple(map(ord, answer)), len(question))

    def hear(self, text: str, token_ids: tuple[int, ...]) -> Heard:
        """What stands before a bar is thinking, which a text of nothing but a bar does not come out of."""
        thinking, _, answer = text.rpartition("|")
        return Heard(thinking, None if text == "|" else answer, () if text == "|" else token_ids)


class Parrot:
    """An engine that generates a fixed answer for each question and gives each answer a fixed log-probability.

    Sampled answers have their number behind them. Moments are those of a distribution of log-probabilities with mean -2
    and variance 1; the gradient's norm is the answer's length.
    """

    def __init__(self, says: Mapping[str, Generation], logp: Mapping[str, float]) -> None:
        self.says, self.logp = says, logp
        self.prompts: list[str] = []
        self.texts: list[tuple[str, str]] = []

    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        questions = ["".join(map(chr, prompt)) for prompt in prompts]
        self.prompts += questions
        if sampling.temperature == 0:
            return [[self.says[question]] for question in questions]
        numbers = range(sampling.samples)
        said = [self.says[question] for question in questions]
        return [[replace(each, text=f"{each.text} {i}") for i in numbers] for each in said]

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        pairs = [("".join(map(chr, t.prompt_ids)), "".join(map(chr, t.answer_ids))) for t in texts]
        self.texts += pairs
        return [ScoredText((self.logp[answer],) * len(answer), (True,) * len(answer)) for _, answer in pairs]

    def moments(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        scored = self.score(texts)
        return [replace(each, mean=(-2.0,) * len(each.logp), variance=(1.0,) * len(each.logp)) for each in scored]

    def gradient_norms(self, texts: Sequence[Encoded]) -> list[float | None]:
        return [float(len(text.answer_ids)) for text in texts]
