"""What judges a generation: a sentence encoder, an NLI model and a language model beside its reference, a text
classifier alone."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from obliviate_eval.judges.prompt import Case
from obliviate_eval.records import Probe, Record
from obliviate_eval.suites.base import Suite

Pair = tuple[str, str]


class Verdicts(Protocol):
    """(Question, reference, answer) -> whether the judge says yes; None where it gave no verdict."""

    unanswered: Counter[str]  # of the last call: why there was none -> how often

    def __call__(self, cases: Sequence[Case]) -> list[bool | None]: ...


@dataclass(frozen=True)
class Judges:
    """`similarity`: pairs of texts -> cosines. `entailment`: (premise, hypothesis) -> NLI labels in lower case.
    `fluency`: texts -> probability that they are clean. `verdict`: see `Verdicts`.

    None: not judged, and the metric that needs it scores nothing.
    """

    similarity: Callable[[Sequence[Pair]], list[float]] | None = None
    entailment: Callable[[Sequence[Pair]], list[str]] | None = None
    fluency: Callable[[Sequence[str]], list[float]] | None = None
    verdict: Verdicts | None = None

    def judge(self, records: Sequence[Record], suite: Suite) -> list[Record]:
        """The records, in their order, with a judgement of each generation that the suite needs and a judge gives."""
        judged = list(records)
        generated = [i for i, record in enumerate(records) if record.generation is not None]
        if Probe.SIMILARITY in suite.needs and self.similarity is not None:
            pairs = [(judged[i].generation or "", judged[i].similar_to or judged[i].full_reference) for i in generated]
            for i, cosine in zip(generated, self.similarity(pairs), strict=True):
                judged[i] = replace(judged[i], similarity=cosine)
        if Probe.ENTAILMENT in suite.needs and self.entailment is not None:
            pairs = [nli_pair(judged[i], suite) for i in generated]
            for i, label in zip(generated, self.entailment(pairs), strict=True):
                judged[i] = replace(judged[i], entailment=label)
        if Probe.SAMPLE_ENTAILMENT in suite.needs and self.entailment is not None:
            labels = iter(self.entailment([(said, each.full_reference) for each in judged for said in each.samples]))
            judged = [replace(each, sample_entailment=tuple(islice(labels, len(each.samples)))) for each in judged]
        if Probe.FLUENCY in suite.needs and self.fluency is not None:
            texts = [judged[i].generation or "" for i in generated]
            for i, clean in zip(generated, self.fluency(texts), strict=True):
                judged[i] = replace(judged[i], fluency=clean)
        if Probe.VERDICT in suite.needs and self.verdict is not None:
            cases = [case_of(judged[i]) for i in generated]
            for i, said in zip(generated, self.verdict(cases), strict=True):
                judged[i] = replace(judged[i], verdict=said)
        return judged


def case_of(record: Record) -> Case:
    return record.question, record.full_reference, record.generation or ""


def nli_pair(record: Record, suite: Suite) -> Pair:
    """(premise, hypothesis), as the suite asks it of the record's role."""
    generation, reference = record.generation or "", record.full_reference
    return (generation, reference) if suite.premise[record.role] == "generation" else (reference, generation)
