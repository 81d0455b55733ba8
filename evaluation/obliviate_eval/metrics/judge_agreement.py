"""How often two judges of the same answers agree: the one behind an endpoint, and the NLI model.

Shapes: I items of a set, R resamples, 4 kinds of pairs of verdicts.
"""

from typing import ClassVar, Literal

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.records import Probe, Record
from obliviate_eval.statistics import Estimate, Floats, nothing


class JudgeAgreement(Comparison):
    """Share of answers of which both say the same, over all sets; yes of the NLI model is its label "entailment".

    Two judges that both nearly always say no agree by chance alone: read it with `judge_kappa`.
    """

    title: ClassVar = "Share of equal verdicts of the judge and the NLI model"
    direction: ClassVar = "higher: the judges agree"
    source: ClassVar = "arXiv:2306.05685"
    needs: ClassVar = frozenset({Probe.VERDICT, Probe.ENTAILMENT})

    type: Literal["judge_agreement"] = "judge_agreement"

    def asks(self, name: str, role: Role) -> bool:
        """It compares what metrics have asked for."""
        return False

    def estimate(self, samples: Samples) -> Estimate:
        count_4, count_R4, unscored = verdicts(samples)
        if not count_4.sum():
            return nothing(unscored, len(count_R4))
        return Estimate(
            value=float(observed(count_4)),
            resampled=observed(count_R4),
            drawn=count_R4.sum(-1) > 0,
            scored=int(count_4.sum()),
            unscored=unscored,
        )


def verdicts(samples: Samples) -> tuple[Floats, Floats, int]:
    """How often (no, no), (no, yes), (yes, no), (yes, yes) were said by judge and NLI model: [4], and under each
    resample [R, 4]; and how many generations lack one of the two."""
    resamples = max((len(sample.counts_RI) for sample in samples.values()), default=0)
    count_4, count_R4, unscored = np.zeros(4), np.zeros((resamples, 4)), 0
    for sample in samples.values():
        kinds = [_kind(record) for record in sample.records]
        said_I4 = np.array([[kind == each for each in range(4)] for kind in kinds], dtype=np.float64)
        count_4 += said_I4.sum(0)
        count_R4 += sample.counts_RI @ said_I4
        unscored += sum(kind is None and record.generation is not None
                        for kind, record in zip(kinds, sample.records, strict=True))  # fmt: skip
    return count_4, count_R4, unscored


def observed(count_X4: Floats) -> Floats:
    """The share of equal verdicts; 0 where there are none at all."""
    return np.asarray((count_X4[..., 0] + count_X4[..., 3]) / np.maximum(count_X4.sum(-1), 1))


def _kind(record: Record) -> int | None:
    if record.verdict is None or record.entailment is None:
        return None
    return 2 * record.verdict + (record.entailment == "entailment")
