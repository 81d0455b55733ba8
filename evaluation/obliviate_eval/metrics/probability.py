"""Probability of the true answer (TOFU, arXiv:2401.06121, section 2.2; "A Closer Look", arXiv:2410.08109)."""

from typing import ClassVar, Literal

from obliviate.data.rows import Role
from obliviate_eval.metrics.base import WITH_OPTIONS, Metric
from obliviate_eval.records import Probe, Record


class Probability(Metric):
    """Geometric mean over the answer's tokens. Real authors and world facts: its share among the true and false ones.

    A short true answer has a low probability even if the model knows it, hence the share there.
    `definition: openunlearning` adds 1e-10 to the sum, so that a share whose parts all underflow is 0, not unknown.
    """

    title: ClassVar = "Probability of the true answer, per token"
    direction: ClassVar = "higher: the true answer is still likely"
    source: ClassVar = "arXiv:2401.06121, section 2.2"
    needs: ClassVar = frozenset({Probe.ANSWER, Probe.PERTURBED})

    type: Literal["probability"] = "probability"
    definition: Literal["tofu", "openunlearning"] = "tofu"

    def needs_of(self, role: Role) -> frozenset[Probe]:
        return self.needs if role in WITH_OPTIONS else frozenset({Probe.ANSWER})

    def score(self, record: Record) -> float | None:
        true = [answer.probability for answer in record.answers.get(Probe.ANSWER, ())]
        if not true or true[0] is None:
            return None
        if record.role not in WITH_OPTIONS:
            return true[0]
        false = [answer.probability for answer in record.answers.get(Probe.PERTURBED, ())]
        known = [p for p in false if p is not None]
        total = true[0] + sum(known) + (1e-10 if self.definition == "openunlearning" else 0.0)
        if not false or len(known) < len(false) or total == 0:  # 0: every probability underflowed
            return None
        return true[0] / total
