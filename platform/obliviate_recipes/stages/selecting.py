"""Which rows a budget and a validation look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from obliviate.config import UnlearnRun
from obliviate.data.held_out import SHARE, hold_out
from obliviate.data.key_facts import asked_for
from obliviate.data.refusing import Refusing
from obliviate.data.rows import Corpus, Role, Row, content_of_rows, read_rows
from obliviate.errors import UserError, under
from obliviate.options import KLBudgetSpec, RefusalsSpec, ValidationSpec
from obliviate.runs import content_hash
from obliviate.train.job import Budget, Refusals, Validation
from obliviate.train.signal import spread
from obliviate_recipes.costs.training import CHOSEN_BYTES, TrainingWork


@dataclass(frozen=True)
class HeldOut:
    """`retain`: what is left of the retain set to train on."""

    retain: tuple[Row, ...]
    budget: Budget | None = None
    validation: Validation | None = None

    @classmethod
    def of(cls, config: UnlearnRun, corpus: Corpus) -> "HeldOut":
        """Raises UserError where the data has no rows to look at."""
        budget, validation = config.kl_budget, config.validation
        counts = {}
        if budget is not None and budget.of_retain:
            counts["kl_budget"] = budget.rows
        if validation is not None and validation.of_retain:
            counts["validation"] = validation.retain_rows
        retain, held = corpus.retain, tuple[Row, ...]()
        if counts:
            retain, held = hold_out(corpus.retain, max(counts.values()), config.seed)
            if not held:
                raise UserError(
                    f"{next(iter(counts))}: holds out a {SHARE}th of the retain set, which has {len(corpus.retain)} "
                    "rows; give data.retain more of them"
                )
        return cls(
            retain,
            None if budget is None else _budget(budget, held, corpus),
            None if validation is None else _validation(validation, held, corpus),
        )

    @property
    def content(self) -> str | None:
        """A hash of what is looked at; None where nothing is."""
        if self.budget is None and self.validation is None:
            return None
        validated = () if self.validation is None else (*self.validation.forget, *self.validation.retain)
        budgeted = () if self.budget is None else self.budget.rows
        return content_hash([content_of_rows(rows) for rows in (self.retain, budgeted, validated)])

    @property
    def rows(self) -> tuple[Row, ...]:
        """What must be readable beside the training texts."""
        validated = () if self.validation is None else self.validation.retain
        return (*(() if self.budget is None else self.budget.rows), *validated)

    def added(self, work: TrainingWork) -> TrainingWork:
        """A training's work, with what measuring adds to it at most."""
        texts = reference = 0
        if self.budget is not None:
            reference = len(self.budget.rows)
            texts += reference * ceil(work.steps / self.budget.every_steps)
        if self.validation is not None:
            rows = len(self.validation.forget) + len(self.validation.retain)
            rows *= 1 if self.validation.refusals is None else 2  # an answer is about as long as what is read
            texts += rows * (1 + ceil(work.steps / self.validation.every_steps))
        return replace(
            work,
            measured_texts=texts,
            reference_texts=work.reference_texts + reference,
            state_bytes=work.state_bytes + (CHOSEN_BYTES if texts else 0),
        )

    def outline(self) -> list[str]:
        lines = []
        if self.budget is not None:
            lines.append(
                f"  at most: it ends when KL to the start is above {self.budget.kl:g} nats per token of "
                f"{len(self.budget.rows)} texts, measured after every {_steps(self.budget.every_steps)}"
            )
        if self.validation is not None:
            forget, retain = len(self.validation.forget), len(self.validation.retain)
            lines.append(
                f"  of all steps the best on {forget} facts to forget and {retain} held-out rows to keep is taken, "
                f"measured after every {_steps(self.validation.every_steps)}"
            )
            if (refusals := self.validation.refusals) is not None:
                lines.append(f"  none that refuses more than {refusals.at_most:.0%} of these rows is taken")
        return lines


def _steps(number: int) -> str:
    return "step" if number == 1 else f"{number} steps"


def _budget(spec: KLBudgetSpec, held: Sequence[Row], corpus: Corpus) -> Budget:
    if spec.of_retain:
        return Budget(spec.nats, spec.every_steps, tuple(held[: spec.rows]))
    return Budget(spec.nats, spec.every_steps, _read("kl_budget", spec.texts, spec.rows, corpus))


def _read(key: str, path: str, count: int, corpus: Corpus) -> tuple[Row, ...]:
    """So many of a file's rows, spread evenly. Raises UserError where some are trained on."""
    with under(f"{key}.texts"):
        rows = read_rows(path)
    trained = {row.key for row in (*corpus.forget, *corpus.retain)}
    if shared := sum(row.key in trained for row in rows):
        raise UserError(f"{key}.texts: {path}: {shared} of its rows are trained on; take them out")
    return tuple(rows[index] for index in spread(len(rows), count))


def _validation(spec: ValidationSpec, held: Sequence[Row], corpus: Corpus) -> Validation:
    """The forget rows as evaluation asks the same question: there stand the false answers that tell the fact."""
    kept = (
        tuple(held[: spec.retain_rows]) if spec.of_retain else _read("validation", spec.texts, spec.retain_rows, corpus)
    )
    asked = {_asked(row): row for each in corpus.evaluation if each.role is Role.FORGET for row in each.rows}
    rows = [asked.get(_asked(row), row) for row in corpus.forget]
    if spec.refusals is not None:
        rows = [row for row in rows if asked_for(row)]
        if not rows:
            raise UserError(
                "validation.refusals: no forget row says which words carry its fact, so none can be counted as told; "
                "give the rows key, or remove it"
            )
    facts = tuple(replace(row, answer=row.fact) for row in (rows[index] for index in spread(len(rows), spec.rows)))
    refusals = None if spec.refusals is None else _refusals(spec.refusals, corpus)
    return Validation(spec.every_steps, spec.patience, facts, kept, refusals)


def _refusals(spec: RefusalsSpec, corpus: Corpus) -> Refusals:
    return Refusals(Refusing.of(corpus.forget), spec.at_most, spec.max_new_tokens)


def _asked(row: Row) -> tuple[str, ...]:
    """What is asked, by whatever answer; of a plain text what it says."""
    return replace(row, answer="").key if row.question else row.key
