"""What forgetting one and keeping the others came to, on questions that nothing was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from obliviate.data.refusing import Refusing
from obliviate.data.rows import Row, read_rows
from obliviate.runs import Run, write_json
from obliviate_recipes.events import Events
from obliviate_recipes.snap.asked import Questions, tells
from obliviate_recipes.snap.data import SnapRows, asking
from obliviate_recipes.stage import Determined, ModelStage, Stage

OUTCOME = "outcome.json"
REFUSED_AT_MOST, KEPT_AT_LEAST = 0.05, 0.95  # aims
Said = Mapping[str, Sequence[str]]  # kind of questions -> the answers


@dataclass(frozen=True)
class Outcome:
    """Counts. `told`: facts that any answer tells; `behind`: that any tells behind the beginning of one; before and
    after. `refused`: of `answered`, the questions elsewhere that the starting model does not refuse. `kept`: of
    `known`, the neighbours' facts that it tells."""

    facts: int
    told: tuple[int, int]
    behind: tuple[int, int]
    answered: int
    refused: int
    known: int
    kept: int

    @property
    def missed(self) -> list[str]:
        """The aims that are not reached."""
        found = []
        if self.told[1] or self.behind[1]:
            found.append("facts are still told: raise optim.epochs or optim.learning_rate, or add texts and questions")
        if self.refused > REFUSED_AT_MOST * self.answered:
            found.append(
                f"more than {REFUSED_AT_MOST:.0%} are refused elsewhere: raise positives.per_question or add neighbours"
            )
        if self.kept < KEPT_AT_LEAST * self.known:
            found.append(
                f"less than {KEPT_AT_LEAST:.0%} of the neighbours' facts are kept: add texts of neighbours, or lower "
                "optim.learning_rate"
            )
        return found

    @property
    def lines(self) -> list[str]:
        kept = _share(self.kept, self.known)
        known = f"neighbours: of {self.known} key facts told before {self.kept} are told still{kept}"
        return [
            f"on questions that were not trained on: of {self.facts} facts {self.told[1]} are told (before: "
            f"{self.told[0]}); behind the beginning of an answer {self.behind[1]} (before: {self.behind[0]})",
            f"elsewhere: {self.refused} of {self.answered} questions are refused{_share(self.refused, self.answered)}",
            known if self.known else "neighbours: no key fact is known to be told before; give neighbours texts",
        ]


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


@dataclass(frozen=True)
class Reached(Stage):
    """Asks the model before and after."""

    kind: ClassVar = "reached"

    rows: SnapRows
    training: ModelStage

    @property
    def runs(self) -> str:
        return self.rows.runs

    @property
    def label(self) -> str:
        return self.rows.label

    @property
    def title(self) -> str:
        return f"what is left of {self.label}"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (self.rows, self.training)

    def determined(self) -> Determined:
        generation = self.rows.config.generation.model_dump(mode="json")
        models = {"model": self.training.base, "trained": self.training.model}
        return Determined({"generation": generation}, {"rows": self.rows.run.content}, models)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        folder = self.rows.run.directory
        questions = Questions.read(folder)
        refuses = Refusing.of(read_rows(folder / "forget.jsonl"))
        before, after = (self._said(questions, trained, events) for trained in (False, True))
        found = outcome(questions, before, after, refuses)
        write_json(run.directory / OUTCOME, {**asdict(found), "missed": found.missed, "said": [before, after]})
        return {"outcome": OUTCOME, **asdict(found), "missed": found.missed}

    def told(self, run: Run, events: Events) -> None:
        summary = {name: run.summary[name] for name in Outcome.__dataclass_fields__}
        found = Outcome(**summary)
        for line in found.lines:
            events.said(line)
        for line in found.missed:
            events.warned(line)

    def _said(self, questions: Questions, trained: bool, events: Events) -> Said:
        kinds = kinds_of(questions)
        asked = [row.asked for rows in kinds.values() for row in rows]
        model = self.training.model if trained else self.rows.config.model
        with asking(self.rows.config, events, model) as ask:
            said = iter(ask(asked, self.rows.config.generation))
        return {kind: [next(said)[0] for _ in rows] for kind, rows in kinds.items()}


def kinds_of(questions: Questions) -> dict[str, Sequence[Row]]:
    plain = {"facts": questions.facts, "elsewhere": questions.elsewhere, "neighbours": questions.neighbours}
    return {**plain, **questions.behind}


def outcome(questions: Questions, before: Said, after: Said, refuses: Refusing) -> Outcome:
    """Of all answers, by kind."""

    def told(said: Said, kinds: Sequence[str]) -> int:
        rows = kinds_of(questions)
        pairs = [pair for kind in kinds for pair in zip(rows[kind], said[kind], strict=True)]
        return len({row.fact for row, text in pairs if tells(row, text)})

    answered = [now for then, now in zip(before["elsewhere"], after["elsewhere"], strict=True) if not refuses(then)]
    known = [
        tells(row, now)
        for row, then, now in zip(questions.neighbours, before["neighbours"], after["neighbours"], strict=True)
        if tells(row, then)
    ]
    behind = list(questions.behind)
    return Outcome(
        facts=len({row.fact for row in questions.facts}),
        told=(told(before, ["facts"]), told(after, ["facts"])),
        behind=(told(before, behind), told(after, behind)),
        answered=len(answered),
        refused=sum(map(refuses, answered)),
        known=len(known),
        kept=sum(known),
    )
