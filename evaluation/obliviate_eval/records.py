"""What was measured of one item: the texts, the generations, the token log-probabilities. Metrics are pure functions
of records, so a new metric re-scores an old run on a CPU, without the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, fsum, isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import intact, write_whole

RECORDS_FILE = "records.parquet"
REWORDED = "_paraphrased"  # behind the name of a set of role forget: its items again, asked in other words
FORM = " as "  # between the name of such a set and that of a form: its items again, asked in that form


def asked_again(name: str) -> bool:
    """Whether the items of the set of that name are those of another: what is asked twice is no second item."""
    return name.endswith(REWORDED) or FORM in name


class Probe(StrEnum):
    """A text to generate for or to score, or a judgement of a generation."""

    GENERATION = "generation"  # greedy continuation of the question
    ANSWER = "answer"  # score: the true answer
    PARAPHRASED = "paraphrased"  # score: the paraphrased answer (the answer itself where the set defines it so)
    PERTURBED = "perturbed"  # score: each false answer
    KEY = "key"  # score: the words of the true answer that carry its fact
    MOMENTS = "moments"  # score: the true answer, with the moments of log p
    GRADIENT_NORM = "gradient_norm"  # of the true answer's loss
    SAMPLES = "samples"  # sampled continuations of the question
    SIMILARITY = "similarity"  # judge: sentence encoder, generation against the full reference
    ENTAILMENT = "entailment"  # judge: NLI model, generation against the full reference
    SAMPLE_ENTAILMENT = "sample_entailment"  # judge: NLI model, each sample as the premise of the full reference
    FLUENCY = "fluency"  # judge: text classifier, is the generation clean text?
    VERDICT = "verdict"  # judge: language model, does the generation reveal the full reference?


# The probes that are teacher-forced answers.
SCORED = (Probe.ANSWER, Probe.PARAPHRASED, Probe.PERTURBED, Probe.KEY, Probe.MOMENTS)
OF_NLI = frozenset({Probe.ENTAILMENT, Probe.SAMPLE_ENTAILMENT})
OF_ENGINE = frozenset({Probe.GENERATION, *SCORED, Probe.GRADIENT_NORM, Probe.SAMPLES})  # the rest judges say


@dataclass(frozen=True)
class ScoredAnswer:
    """A teacher-forced answer: one value a token, the end-of-turn token included as the last, unless it was `cut` off.

    Of `Probe.KEY`, a part of it: the tokens of these words alone.
    `mean` and `variance` are those of log p(v) under p over the vocabulary, and `rank` is 1 where no token is likelier,
    where they were measured. Logs of other frameworks hold an answer's mean alone: its tokens then all have it, and
    `greedy` is empty.
    """

    text: str
    logp: tuple[float, ...]  # nats
    greedy: tuple[bool, ...] = ()  # whether the token was the argmax
    mean: tuple[float, ...] = ()  # nats
    variance: tuple[float, ...] = ()  # nats squared
    cut: bool = False  # at the model's max_length
    rank: tuple[float, ...] = ()

    @property
    def mean_logp(self) -> float | None:
        """Nats per token; None where the model gave no finite number (collapsed) or there is no token."""
        if not self.logp or not all(map(isfinite, self.logp)):
            return None
        return fsum(self.logp) / len(self.logp)

    @property
    def probability(self) -> float | None:
        """exp of the mean log-probability: the geometric mean of the tokens' probabilities."""
        mean = self.mean_logp
        return None if mean is None else exp(mean)

    @property
    def content(self) -> tuple[float, ...] | None:
        """`logp` without the end-of-turn token, which says nothing of the text's words.

        None where the tokens are not known one by one, or are not finite numbers.
        """
        if len(self.greedy) != len(self.logp) or not all(map(isfinite, self.logp)):
            return None
        return self.logp if self.cut else self.logp[:-1]


@dataclass(frozen=True)
class Record:
    """One item of one evaluation set under one model."""

    set: str  # the evaluation set's name: forget, retain, real_authors, ...
    role: Role
    index: int
    question: str
    reference: str  # the true answer: what a generation's words are compared with
    full_reference: str  # the true answer as a sentence: what judges compare a generation with
    generation: str | None = None  # None: not generated, or no room for a single token, before or after thinking
    generation_tokens: tuple[int, ...] | None = None  # end-of-turn token excluded; None: not known (imported logs)
    generation_finished: bool | None = None
    answers: dict[Probe, tuple[ScoredAnswer, ...]] = field(default_factory=dict)
    similarity: float | None = None  # cosine in [-1, 1]
    entailment: str | None = None  # the NLI label: entailment, neutral, contradiction
    samples: tuple[str, ...] = ()  # sampled generations, all of the same number a question
    sample_entailment: tuple[str, ...] = ()  # the NLI label of each sample; empty: not judged
    gradient_norm: float | None = None  # of the true answer's mean loss, over all parameters
    fluency: float | None = None  # probability that the generation is clean text
    similar_to: str | None = None  # what similarity compares with, where it is another: the answer trained on
    verdict: bool | None = None  # of a language model, on the generation; None: not asked, or it gave none
    # Scores that another framework's log has of the item, by metric: what they rest on is not in it.
    logged: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()  # other ways to say the true answer
    thinking: str | None = None  # what the model wrote for itself before the generation; no metric looks at it


_NUMBERS = pa.list_(pa.float64())
_ANSWERS = pa.list_(
    pa.struct(
        [
            ("text", pa.string()),
            ("logp", _NUMBERS),
            ("greedy", pa.list_(pa.bool_())),
            ("mean", _NUMBERS),
            ("variance", _NUMBERS),
            ("rank", _NUMBERS),
            ("cut", pa.bool_()),
        ]
    )
)
_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("role", pa.string()),
        ("index", pa.int64()),
        ("question", pa.string()),
        ("reference", pa.string()),
        ("full_reference", pa.string()),
        ("generation", pa.string()),
        ("generation_tokens", pa.list_(pa.int32())),
        ("generation_finished", pa.bool_()),
        *((probe.value, _ANSWERS) for probe in SCORED),  # null where the probe was not run
        ("similarity", pa.float64()),
        ("entailment", pa.string()),
        ("samples", pa.list_(pa.string())),
        ("sample_entailment", pa.list_(pa.string())),
        ("gradient_norm", pa.float64()),
        ("fluency", pa.float64()),
        ("similar_to", pa.string()),
        ("thinking", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("verdict", pa.bool_()),
        ("logged", pa.map_(pa.string(), pa.float64())),
    ]
)
_TEXTS = ("samples", "sample_entailment", "aliases")  # lists of them
_PLAIN = [name for name in _SCHEMA.names if name not in {"role", "generation_tokens", "logged", *_TEXTS, *SCORED}]
_LATER = {
    "key",
    "moments",
    "samples",
    "sample_entailment",
    "gradient_norm",
    "fluency",
    "similar_to",
    "thinking",
    "aliases",
    "verdict",
    "logged",
}  # null in old files


def records_file(part: int | str) -> str:
    """The name where a run holds several: after so many steps, or at a setting."""
    return f"records-{part}.parquet"


def write_records(path: Path, records: Sequence[Record]) -> None:
    """One row a record, one column a field; the teacher-forced answers are a nested column for each probe."""
    table = pa.Table.from_pylist([_row(record) for record in records], schema=_SCHEMA)
    sums = {"write_page_checksum": True}  # of a file that no finished run lists they alone tell that it is damaged
    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd", **sums))


def read_records(path: Path) -> list[Record]:
    """Raises UserError where the file is missing, no parquet, was not written by `write_records`, or is damaged."""
    try:
        table = pq.read_table(intact(path), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: no readable parquet file ({reason}); give the {RECORDS_FILE} of a run") from error
    missing = sorted(set(_SCHEMA.names) - set(table.column_names) - _LATER)
    if missing:
        raise UserError(f"{path}: no records of an evaluation: without {', '.join(missing)}; run the evaluation again")
    try:
        return [_record(row) for row in table.to_pylist()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: no records of an evaluation, or damaged ones ({error}); run it again") from error


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in _PLAIN}
    row["role"] = record.role.value
    row["generation_tokens"] = record.generation_tokens
    row |= {name: getattr(record, name) for name in _TEXTS}
    row["logged"] = list(record.logged.items())
    for probe, scored in record.answers.items():
        row[probe.value] = [vars(each) for each in scored]
    return row


def _record(row: dict[str, Any]) -> Record:
    tokens = row["generation_tokens"]
    answers = {probe: tuple(map(_answer, found)) for probe in SCORED if (found := row.get(probe.value)) is not None}
    plain: dict[str, Any] = {name: row.get(name) for name in _PLAIN}
    texts: dict[str, Any] = {name: tuple(row.get(name) or ()) for name in _TEXTS}
    return Record(
        **plain,
        role=Role(row["role"]),
        generation_tokens=None if tokens is None else tuple(tokens),
        **texts,
        logged=dict(row.get("logged") or ()),
        answers=answers,
    )


def _answer(found: dict[str, Any]) -> ScoredAnswer:
    tokens: dict[str, Any] = {
        key: tuple(found.get(key) or ()) for key in ("logp", "greedy", "mean", "variance", "rank")
    }
    return ScoredAnswer(found["text"], **tokens, cut=bool(found.get("cut")))
