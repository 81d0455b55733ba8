"""A small package of somebody else's, as pip would leave it: a forget objective, a regularizer, a metric, a comparison,
a source of data and an attack, each an entry point."""

import textwrap
from pathlib import Path

METHODS = """
    from typing import ClassVar, Literal

    from pydantic import Field

    from obliviate.methods import ForgetObjective, Loss, Needs, Pass, Positions, Regularizer, Scores
    from obliviate.scoring import Stat


    class Capped(ForgetObjective):
        title: ClassVar = "Gradient ascent up to a cap"
        when: ClassVar = "Where ga collapses the model"
        source: ClassVar = "others 1.0"

        type: Literal["capped"] = "capped"
        cap: float = Field(5.0, gt=0)  # nats

        @property
        def needs(self) -> Needs:
            return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

        def loss(self, scores: Scores) -> Loss:
            forget = scores[Pass.FORGET]
            return Loss.mean(forget.logp_BT.clamp(min=-self.cap), forget.answer_BT)


    class Keep(Regularizer):
        title: ClassVar = "Cross-entropy of what is kept, squared"
        when: ClassVar = "In tests"
        source: ClassVar = "others 1.0"

        type: Literal["keep"] = "keep"

        @property
        def needs(self) -> Needs:
            return {Pass.RETAIN: {Stat.LOGP: Positions.ANSWER}}

        def loss(self, scores: Scores) -> Loss:
            retain = scores[Pass.RETAIN]
            return Loss.mean(retain.logp_BT**2, retain.answer_BT)
"""
METRICS = """
    from typing import ClassVar, Literal

    import numpy as np

    from obliviate_eval.metrics.base import Metric
    from obliviate_eval.metrics.comparison import Comparison, Samples
    from obliviate_eval.records import Probe, Record
    from obliviate_eval.statistics import Estimate


    class Words(Metric):
        title: ClassVar = "Whether a generation has a word"
        direction: ClassVar = "higher: the model speaks"
        source: ClassVar = "others 1.0"
        needs: ClassVar = frozenset({Probe.GENERATION})

        type: Literal["words"] = "words"
        least: int = 1

        def score(self, record: Record) -> float | None:
            return None if record.generation is None else float(len(record.generation.split()) >= self.least)


    class Items(Comparison):
        title: ClassVar = "Items of the forget set"
        direction: ClassVar = "a count"
        source: ClassVar = "others 1.0"
        needs: ClassVar = frozenset({Probe.GENERATION})

        type: Literal["items"] = "items"

        def estimate(self, samples: Samples) -> Estimate:
            sample = samples["forget"]
            draws, items = sample.counts_RI.shape
            return Estimate(float(items), np.full(draws, float(items)), np.ones(draws, dtype=bool), items, 0)
"""
DATA = """
    from typing import Literal

    from obliviate.data import Corpus, Data, EvaluationSet, Role, Row


    class Towns(Data):
        type: Literal["towns"] = "towns"
        towns: int = 4

        def load(self) -> Corpus:
            forget, retain = (
                tuple(Row(f"Where is {name} {i}?", f"{name} {i} is in France.") for i in range(self.towns))
                for name in ("Ville", "Bourg")
            )
            sets = (EvaluationSet("forget", Role.FORGET, forget), EvaluationSet("retain", Role.RETAIN, retain))
            return Corpus(forget, retain, sets)
"""
ATTACKS = """
    from typing import ClassVar, Literal

    from obliviate_recipes.attacks.base import Attack, Attempt


    class Nothing(Attack):
        title: ClassVar = "Does nothing, several times"
        source: ClassVar = "others 1.0"

        type: Literal["nothing"] = "nothing"
        times: int = 2

        def attempts(self, target, scene):
            plain = scene.plain(target)
            return [Attempt(f"nothing {time}", plain, plain) for time in range(self.times)]
"""
ENTRY_POINTS = {
    "obliviate.attacks": {"nothing": "others_package.attacks:Nothing"},
    "obliviate.methods": {"capped": "others_package.methods:Capped", "keep": "others_package.methods:Keep"},
    "obliviate.metrics": {"words": "others_package.metrics:Words", "items": "others_package.metrics:Items"},
    "obliviate.data": {"towns": "others_package.data:Towns"},
}


def install(site: Path, entry_points: dict[str, dict[str, str]] = ENTRY_POINTS, name: str = "others") -> Path:
    """Into the folder `site`, which Python is to search."""
    package = site / "others_package"
    package.mkdir(parents=True, exist_ok=True)
    for file, code in {
        "__init__": "", "methods": METHODS, "metrics": METRICS, "data": DATA, "attacks": ATTACKS,
    }.items():  # fmt: skip
        (package / f"{file}.py").write_text(textwrap.dedent(code))
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = {group: [f"{key} = {place}" for key, place in of.items()] for group, of in entry_points.items()}
    (info / "entry_points.txt").write_text("".join("\n".join([f"[{group}]", *of, ""]) for group, of in groups.items()))
    return site
