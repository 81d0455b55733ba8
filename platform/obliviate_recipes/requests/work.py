"""What a batch has done to a model: unlearning and measuring, each a stage that is found again when it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Protocol

from obliviate import storage
from obliviate.config import UnlearnRun, build
from obliviate.data.files import FilesData
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, read_rows
from obliviate.errors import UserError
from obliviate.models import locate
from obliviate.runs import RUN_FILE, content_hash, record_of
from obliviate.schema import ModelSpec
from obliviate_eval.asked import suite_of
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.robustness import HEADLINE, ROBUSTNESS_FILE, Robustness, excess_of
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import METRICS_FILE, Evaluation, summarise
from obliviate_recipes.attacks.base import Scene, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.attacks.split import FORGET
from obliviate_recipes.events import Events
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.stage import perform
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.measure import Measuring


class Work(Protocol):
    """The seam between the runner, which keeps the ledger, and what takes hours. Both may be called again."""

    def unlearn(self, base: str, forget: Path, retain: Path | None) -> str:
        """The new model, by the name that every node knows: `base` without the rows of `forget`, a JSON-lines file."""
        ...

    def measure(
        self, name: str, model: str, requests: Mapping[int, Sequence[Row]], kept: Sequence[EvaluationSet]
    ) -> Measurement:
        """Each request's figures on its rows, and those of what is kept."""
        ...

    def attack(
        self,
        name: str,
        model: str,
        base: str,
        forget: Sequence[Row],
        retain: Path | None,
        kept: Sequence[EvaluationSet],
    ) -> dict[str, Figure]:
        """What attacks on `model` bring back of the texts that it was made from `base` to forget: ATTACK.MEASURE ->
        excess recovery; without a value where that can't be told, 0 where nothing was there to come back."""
        ...

    def weights(self, model: str) -> str:
        """A hash of every weight file of the folder `model`."""
        ...

    def recipe(self, model: str) -> UnlearnRun:
        """What `model`, a folder that `unlearn` gave, was made with."""
        ...


@dataclass(frozen=True)
class Recipes:
    """The real work: the recipes of `unlearn` and `evaluate`."""

    config: RequestsRun
    events: Events

    def unlearn(self, base: str, forget: Path, retain: Path | None) -> str:
        shared = {name: getattr(self.config, name) for name in UnlearnRun.model_fields}
        data = FilesData(forget=storage.name(forget), retain=None if retain is None else storage.name(retain))
        config = UnlearnRun(**{**shared, "model": self._from(base), "data": data})
        stage = unlearning_stage(config, config.data.load())
        perform([stage], self.events)
        return stage.model.source

    def measure(
        self, name: str, model: str, requests: Mapping[int, Sequence[Row]], kept: Sequence[EvaluationSet]
    ) -> Measurement:
        asked = {
            number: EvaluationSet(f"request_{number}", Role.FORGET, tuple(rows)) for number, rows in requests.items()
        }
        rows = tuple(row for each in asked.values() for row in each.rows)
        corpus = Corpus(rows, (), (*asked.values(), *kept))
        spec = self.config.evaluation
        measuring = Measuring(corpus, spec, self.config.cluster.address, self.config.runs)
        figures = measuring.figures(name, self._from(model).model_copy(update={"lora": None}))
        perform([figures], self.events)
        folder = figures.run.directory
        records, suite = read_records(folder / RECORDS_FILE), suite_of(spec)
        alone = {
            number: summarise(
                [record for record in records if record.set == each.name],
                suite,
                resamples=spec.resamples,
                seed=spec.seed,
            )
            for number, each in asked.items()
        }
        together = Evaluation.read(folder / METRICS_FILE)
        of_forget = {each.name for each in suite.aggregates if Role.FORGET in each.roles}
        of_kept = {each.name for each in suite.aggregates if each.roles and set(each.roles) <= set(KEPT)}
        kept_aggregates = {name: figure for name, figure in together.aggregates.items() if name in of_kept}
        on_sets = {
            f"{name}.{metric}": figure
            for name, figures in together.sets.items()
            if together.roles[name] in KEPT
            for metric, figure in figures.items()
        }
        return Measurement(
            evaluation=storage.name(folder),
            requests={
                number: {
                    **{name: figure for name, figure in found.aggregates.items() if name in of_forget},
                    **found.sets[asked[number].name],
                }
                for number, found in alone.items()
            },
            kept={**kept_aggregates, **on_sets},
        )

    def attack(
        self,
        name: str,
        model: str,
        base: str,
        forget: Sequence[Row],
        retain: Path | None,
        kept: Sequence[EvaluationSet],
    ) -> dict[str, Figure]:
        config = self.config
        rows = tuple(forget)
        asked = EvaluationSet(FORGET, Role.FORGET, rows)
        corpus = Corpus(rows, () if retain is None else read_rows(retain), (asked, *kept))
        before, after = (self._from(each).model_copy(update={"lora": None}) for each in (base, model))
        spec = config.evaluation.model_copy(update={"suite": "robustness", "questions": "given"})
        try:
            scene = Scene.of(
                corpus,
                config.split,
                spec,
                config,
                original=Target("before", before),
                retain=None if config.retain_model is None else Target("retain", config.retain_model),
            )
        except UserError as error:  # one text alone, say
            self.events.warned(f"{name}: attacks: nothing can be told of so few texts: {error}")
            return {}
        robust = Robust(name, scene, config.attacks, (Target("after", after),), config.budget.utility_drop)
        perform([robust], self.events)
        found = Robustness.read(robust.run.directory / ROBUSTNESS_FILE).models["after"]
        return {
            f"{attack}.{measure}": excess_of(figures, measure)
            for attack, figures in found.attacks.items()
            for measure in (*figures.worst, *HEADLINE)
        }

    def weights(self, model: str) -> str:
        hashes = {}
        for path in sorted(Path(locate(model)).glob("*.safetensors")):
            with path.open("rb") as file:
                hashes[path.name] = file_digest(file, "sha256").hexdigest()
        return content_hash(hashes)

    def recipe(self, model: str) -> UnlearnRun:
        record = storage.fetch(Path(locate(model)).parent / RUN_FILE)
        return build(UnlearnRun, record_of(record.parent)["config"], where=str(record))

    def _from(self, source: str) -> ModelSpec:
        """The served model, laid out as the first one is."""
        first = self.config.model
        revision = first.revision if source == first.source else None
        return first.at(source).model_copy(update={"revision": revision})
