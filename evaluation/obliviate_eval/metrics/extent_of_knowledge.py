"""The truth ratio as a probability (OpenUnlearning, arXiv:2506.12618: its truth ratio with aggregator prob_mean)."""

from math import exp
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.truth_ratio import log_truth_ratio, openunlearning_probabilities
from obliviate_eval.records import Probe, Record


class ExtentOfKnowledge(Metric):
    """p / (p + q), with p the probability per token of the paraphrased true answer and q that of the false ones, a
    geometric mean. 0.5: the true answer is as likely as false ones. `definition: openunlearning` adds 1e-10 below.
    """

    title: ClassVar = "Extent of knowledge: a paraphrase of the true answer's share beside false answers"
    direction: ClassVar = "higher: true is told from false; 0.5: not told apart"
    source: ClassVar = "arXiv:2506.12618"
    needs: ClassVar = frozenset({Probe.PARAPHRASED, Probe.PERTURBED})

    type: Literal["extent_of_knowledge"] = "extent_of_knowledge"
    definition: Literal["plain", "openunlearning"] = "plain"

    def score(self, record: Record) -> float | None:
        if self.definition == "openunlearning":
            found = openunlearning_probabilities(record)
            return None if found is None else found[0] / (found[0] + found[1] + 1e-10)
        log_r = log_truth_ratio(record)
        if log_r is None:
            return None
        small = exp(-abs(log_r))  # of the two ratios, the one that can't overflow
        return 1 / (1 + small) if log_r > 0 else small / (1 + small)
