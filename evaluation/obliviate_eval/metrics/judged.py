"""A language model as the judge of an answer (Zheng et al. 2023, arXiv:2306.05685)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class Judged(Metric):
    """1 where the judge says yes, 0 where it says no: what it was asked is the prompt's business.

    An answer on which it gave no verdict is unscored. Read it beside the agreement with the NLI model.
    """

    title: ClassVar = "Share of answers of which the judge says yes: by the prompt `reveals`, that the fact is told"
    direction: ClassVar = "higher: the fact is still told (prompt `reveals`), the answer is right (prompt `agrees`)"
    source: ClassVar = "arXiv:2306.05685"
    needs: ClassVar = frozenset({Probe.GENERATION, Probe.VERDICT})

    type: Literal["judged"] = "judged"

    def score(self, record: Record) -> float | None:
        return None if record.verdict is None else float(record.verdict)
