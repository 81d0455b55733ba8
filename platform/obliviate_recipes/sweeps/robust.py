"""The third figure of a sweep's front: what of the forgetting survives attacks that take seconds.

1 - the highest excess recovery over the attacks' measures and settings, in [0, 1]; 0 where nothing was lost that could
come back, because then nothing of a forgetting survives. Diagnoses count too, unlike in the robustness score: how deep
a fact is erased tells of attacks that were not tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from obliviate.data.rows import Corpus
from obliviate_eval.robustness import ANY, HEADLINE, ROBUSTNESS_FILE, ModelFigures, Robustness
from obliviate_recipes.attacks.base import ORIGINAL, RETAIN, Attack, Scene, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.spec import SweepRun

SUITE = "robustness"  # measures facts alone, whatever the sweep's own suite is


def attacked(
    config: SweepRun,
    corpus: Corpus,
    measuring: Measuring,
    models: Mapping[str, Target],
    targets: Sequence[Target],
    attacks: Sequence[Attack],
) -> Robust:
    """The attacks on the targets, on the original and on the retain model. `measuring`: how the sweep measures here.

    Raises UserError for an attack that lacks something of the data.
    """
    assert config.robustness is not None
    scene = Scene.of(
        corpus,
        config.robustness.split,
        measuring.spec.model_copy(update={"suite": SUITE, "questions": "given"}),
        config,
        original=models[ORIGINAL],
        retain=models[RETAIN],
    )
    shared = replace(measuring, corpus=scene.measuring.corpus, spec=scene.measuring.spec)  # with its engine
    scene = replace(scene, measuring=shared)
    return Robust(config.title, scene, tuple(attacks), tuple(targets), config.robustness.budget.utility_drop)


def compared(original: Target, retain: Target) -> dict[str, Target]:
    return {ORIGINAL: original, RETAIN: retain}


def figures(robust: Robust, name: str) -> ModelFigures:
    """Of a target, once it was attacked."""
    return Robustness.read(robust.run.directory / ROBUSTNESS_FILE).models[name]


def surviving(found: ModelFigures) -> float:
    """Of an attack that costs too much at every setting nothing is told, and it does not count."""
    excess = [
        outcome.recovery.excess.value
        for name, attack in found.attacks.items()
        for outcome in attack.worst.values()
        if name != ANY and (outcome.own_scale or outcome.measure in HEADLINE)
    ]
    told = [value for value in excess if value is not None]
    return 1 - min(max(0.0, *told), 1.0) if told else 0.0
