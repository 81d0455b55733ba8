"""The stages that make one model that has forgotten: what prepares the training, and what follows it."""

from typing import Any

from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus
from obliviate_recipes.stage import ModelStage, Stage
from obliviate_recipes.stages.alternatives import Alternatives, missing_alternatives
from obliviate_recipes.stages.filtering import Filter
from obliviate_recipes.stages.finetuning import Finetune
from obliviate_recipes.stages.layers import layer, layered
from obliviate_recipes.stages.negation import Negation
from obliviate_recipes.stages.sanitisation import Sanitised
from obliviate_recipes.stages.training import Launch, Training
from obliviate_recipes.stages.undo import Distilled
from obliviate_recipes.stages.unlearning import Adapter, Learn, Unlearn


def unlearning_stage(
    config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...] = (), train: Launch | None = None
) -> ModelStage:
    """What makes the model that has forgotten. `before`: stages that make models which the config names."""
    if config.undo is not None:
        teacher = unlearning_stage(config.model_copy(update={"undo": None}), corpus, before, train)
        return Distilled(config, corpus, train=train, unlearned=teacher)
    if config.sanitisation is not None:
        bare = config.model_copy(update={"sanitisation": None})
        return Sanitised(config, corpus, unlearning_stage(bare, corpus, before, train))
    if config.layers is not None:
        return _layered(config, corpus, before, train)
    prepared = _prepared(config, corpus, before, train)
    if config.method.negation is None:
        return Unlearn(**prepared)
    return Negation(config, tuple(Learn(**{**prepared, "config": each}) for each in config.learnings))


def _layered(config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...], train: Launch | None) -> ModelStage:
    """The last of the trainings, which needs the others."""
    assert config.layers is not None
    source, stage = "", None
    for number, part in enumerate(layered(corpus, config.layers.folds, config.seed), 1):
        stage = unlearning_stage(layer(config, number, source), part, before, train)
        source, before = stage.model.source, (*before, stage)
    assert stage is not None
    return stage


def trainings(stage: ModelStage) -> tuple[ModelStage, ...]:
    """Those that an unlearning stage is made of."""
    if isinstance(stage, Training) and stage.unlearned is not None:
        return trainings(stage.unlearned)
    if isinstance(stage, Sanitised):
        return trainings(stage.unlearned)
    return stage.learned if isinstance(stage, Negation) else (stage,)


def adapter_stage(config: UnlearnRun, corpus: Corpus) -> Adapter:
    return Adapter(**_prepared(config, corpus, (), None))


def _prepared(config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...], train: Launch | None) -> dict[str, Any]:
    """The fields of a training, with the stages that prepare it."""
    reinforcing = config.reinforcing
    filtering = None if config.forget_filter is None else Filter(config, corpus, before)
    sampling = Alternatives(config, corpus, before, filtering) if missing_alternatives(config, corpus) else None
    reinforced = None if reinforcing is None else Finetune(reinforcing, corpus, before)
    return {
        "config": config, "corpus": corpus, "before": before, "train": train, "filter": filtering,
        "alternatives": sampling, "reinforced": reinforced,
    }  # fmt: skip
