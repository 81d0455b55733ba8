"""From an evaluation's config to its judges."""

from pathlib import Path

from obliviate_eval.asked import suite_of
from obliviate_eval.judges import Judges
from obliviate_eval.judges.endpoint import EndpointJudge
from obliviate_eval.judges.fluency import FluencyModel
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_eval.records import OF_NLI, Probe
from obliviate_eval.spec import EvaluationSpec


def load_judges(spec: EvaluationSpec, cache: Path) -> Judges:
    """The judges that are named and that the suite needs. Raises UserError where one can't be loaded.

    `cache`: the folder of what endpoints reply.
    """
    needs = suite_of(spec).needs
    return Judges(
        similarity=SentenceEncoder(spec.encoder) if spec.encoder and Probe.SIMILARITY in needs else None,
        entailment=NliModel(spec.nli) if spec.nli and needs & OF_NLI else None,
        fluency=FluencyModel(spec.fluency) if spec.fluency and Probe.FLUENCY in needs else None,
        verdict=EndpointJudge(spec.judge, cache) if spec.judge and Probe.VERDICT in needs else None,
    )
