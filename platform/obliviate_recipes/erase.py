"""`obliviate erase`: teach a task by examples in the prompt that can be forgotten exactly, and say what that costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

from obliviate import storage
from obliviate.console_table import ConsoleTable
from obliviate.data.rows import Row, read_rows
from obliviate.erase import HolisticCost, Selection, Settings
from obliviate.errors import UserError, under
from obliviate.models import encoder_of, model_size
from obliviate.runs import Run, content_hash, write_json, write_whole
from obliviate.schema import ModelSpec
from obliviate.tracking import Tracked
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import Recipe
from obliviate_recipes.stage import Determined, Stage

MODEL_YAML, SELECTION = "model.yaml", "selection.json"
INTRODUCTION = "Answer as in these examples."


class EraseRun(Tracked):
    """Examples are chosen by quantised k-means, then those of `forget` are forgotten one after another."""

    title: str = "erase"
    model: ModelSpec
    examples: str  # file of rows that teach the task
    forget: str | None = None  # file of rows among them, in the order in which they are asked to be forgotten
    shots: int = Field(default=4, ge=1)  # examples in the prompt
    # Spacing of the lattice; embeddings have length 1. None: as `obliviate.erase.spacing` finds for so many examples
    epsilon: float | None = Field(default=None, gt=0)
    iterations: int = Field(default=10, ge=1)  # of k-means
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"  # of the examples' questions and answers
    questions_per_request: float = Field(default=1000.0, ge=0)  # asked between two requests to forget, for the cost
    epochs: float = Field(default=5.0, gt=0)  # of the fine-tuning that the cost is compared with
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"


class Erase(Recipe[EraseRun, Path]):
    """Chooses examples, and forgets some."""

    takes: ClassVar = EraseRun

    @cached_property
    def stages(self) -> Sequence["Examples"]:
        return [Examples(self.config)]

    def conclude(self, events: Events) -> Path:
        """The file with the model's spec, the examples that are left in its system prompt, for `evaluate` and
        `serve`."""
        path = self.stages[0].run.directory / MODEL_YAML
        events.said(f"model: {storage.name(path)}")
        return path


@dataclass(frozen=True)
class Examples(Stage):
    """Those that are left in the prompt."""

    kind: ClassVar = "erase"
    config: EraseRun

    @property
    def label(self) -> str:
        return self.config.title

    @property
    def title(self) -> str:
        rows, forget = self.rows
        return f"choose {self.config.shots} of {len(rows)} examples, then forget {len(forget)}"

    @cached_property
    def rows(self) -> tuple[Mapping[str, Row], list[str]]:
        return _rows(self.config)

    def determined(self) -> Determined:
        config, (rows, forget) = self.config, self.rows
        settings = config.model_dump(mode="json", exclude={"title", "examples", "forget", "runs", "tracking"})
        inputs = {"examples": content_hash(list(rows)), "forget": content_hash(forget)}
        return Determined(settings, inputs, {"model": config.model}, config.model_dump(mode="json"))

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.judges.similarity import SentenceEncoder

        config, (rows, forget) = self.config, self.rows
        encoder = SentenceEncoder(config.encoder, key="encoder")
        # Each by itself: in a batch, an embedding's last digits tell what it was padded with, which forgetting leaves.
        vectors = {name: encoder.embed([f"{row.question}\n{row.answer}"])[0] for name, row in rows.items()}
        selection = Selection(vectors, Settings(config.shots, config.epsilon, config.iterations, config.seed))
        chosen_before, distances_before = selection.chosen, selection.work.distances
        epsilon, moving = selection.epsilon, sum(map(selection.moves, rows))
        for name in forget:
            selection.forget(name)
        left = [rows[name] for name in selection.chosen]
        dimension = len(next(iter(vectors.values())))
        operations = 3 * dimension * (selection.work.distances - distances_before)  # less, square, add
        cost = _cost(config, left, operations / max(1, len(forget)))
        retraining = cost.retraining(_tokens(config.model, [*rows.values()]), config.epochs)
        prompted = config.model.model_copy(update={"system_prompt": prompt_of(left, config.model.system_prompt)})
        text = yaml.safe_dump(prompted.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
        found = {
            "chosen": {"before": list(chosen_before), "after": list(selection.chosen)},
            "forgotten": forget,
            "made_anew": selection.work.redone,
            "epsilon": epsilon,
            "moving": moving,
            "operations": {**asdict(cost), "inference": cost.inference, "total": cost.total, "retraining": retraining},
            "break_even_questions": cost.break_even(retraining) if left else None,
        }
        write_whole(run.directory / MODEL_YAML, lambda file: file.write_text(text, encoding="utf-8"))
        write_json(run.directory / SELECTION, found)
        return {"model": MODEL_YAML}

    def told(self, run: Run, events: Events) -> None:
        found = json.loads((run.directory / SELECTION).read_text(encoding="utf-8"))
        _tell(found, len(self.rows[0]), events)


def prompt_of(examples: list[Row], system_prompt: str | None) -> str | None:
    """The examples as a system prompt, behind the model's own."""
    if not examples:
        return system_prompt
    lines = [f"Question: {row.question}\nAnswer: {row.answer}" for row in examples]
    own = [] if system_prompt is None else [system_prompt]
    return "\n\n".join([*own, INTRODUCTION, *lines])


def _rows(config: EraseRun) -> tuple[Mapping[str, Row], list[str]]:
    """The examples by the hash of what they say, equal ones once, and the names of those to forget."""
    with under("examples"):
        given = read_rows(config.examples)
    for number, row in enumerate(given, 1):
        if not row.question:
            raise UserError(
                f"{config.examples}: row {number} is a plain text, which is no example of a question and its answer; "
                "give it a question"
            )
    rows = {_name(row): row for row in given}
    if len(rows) < config.shots:
        raise UserError(f"shots: {config.shots}: {config.examples} has only {len(rows)} different examples; lower it")
    with under("forget"):
        asked = () if config.forget is None else read_rows(config.forget)
    for index, row in enumerate(asked):
        if _name(row) not in rows:
            raise UserError(
                f"{config.forget}: row {index + 1} ({row.question!r}) is not among the examples of {config.examples}: "
                "there is nothing to forget; question and answer must be the same"
            )
    return rows, list(dict.fromkeys(map(_name, asked)))


def _name(row: Row) -> str:
    return content_hash(row.key)[:16]


def _cost(config: EraseRun, examples: list[Row], unlearning: float) -> HolisticCost:
    encoder = encoder_of(config.model)
    bare = len(encoder.prompt("?"))
    prompted = config.model.model_copy(update={"system_prompt": prompt_of(examples, config.model.system_prompt)})
    with_examples = len(encoder_of(prompted).prompt("?"))
    size = model_size(config.model)
    return HolisticCost(size.parameters - size.idle, with_examples - bare, config.questions_per_request, unlearning)


def _tokens(model: ModelSpec, rows: list[Row]) -> int:
    encoder = encoder_of(model)
    return sum(len(encoder.encode_row(row).input_ids) for row in rows)


def _tell(found: dict[str, Any], examples: int, events: Events) -> None:
    operations = found["operations"]
    table = ConsoleTable(caption="floating-point operations between two requests to forget")
    for title in ("", "forgetting", "questions", "total"):
        table.add_column(title, justify="left" if title == "" else "right")
    cells = (operations["unlearning"], operations["inference"], operations["total"])
    table.add_row("examples in the prompt", *(f"{each:.3g}" for each in cells))
    table.add_row("fine-tuning again", f"{operations['retraining']:.3g}", "0", f"{operations['retraining']:.3g}")
    events.said(
        f"{len(found['chosen']['after'])} of {examples - len(found['forgotten'])} examples in the prompt; "
        f"{len(found['forgotten'])} forgotten, {found['made_anew']} times the selection was made anew"
    )
    events.said(
        f"with a lattice of {found['epsilon']:.3g}, forgetting makes the selection anew for {found['moving']} of the "
        f"{examples} examples (tried on each before any was forgotten); it is exact in either case"
    )
    events.shown(table)
    if (questions := found["break_even_questions"]) is not None:
        events.said(f"cheaper than fine-tuning again below {questions:.0f} questions between two requests")
