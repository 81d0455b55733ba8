"""The suite that a config asks for: the one that it names, with what its judge adds to it."""

from dataclasses import replace

from obliviate_eval.metrics import JudgeAgreement, Judged, JudgeKappa
from obliviate_eval.records import Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.suites.base import Suite


def suite_of(spec: EvaluationSpec) -> Suite:
    """A judge judges every set of which generations are measured; where there is an NLI model, it is compared with."""
    suite = SUITES[spec.suite]
    if spec.judge is None:
        return suite
    generated = {metric.type for metric in suite.metrics if Probe.GENERATION in metric.needs}
    compared = Probe.ENTAILMENT in suite.needs and spec.nli is not None
    return replace(
        suite,
        metrics=(*suite.metrics, Judged()),
        comparisons=(*suite.comparisons, *((JudgeAgreement(), JudgeKappa()) if compared else ())),
        sets={name: (*types, "judged") if generated & set(types) else types for name, types in suite.sets.items()},
    )
