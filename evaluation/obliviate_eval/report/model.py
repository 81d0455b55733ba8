"""What a report or a table needs to know of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from obliviate.data.rows import Role
from obliviate_eval.records import Record
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation

Kind = Literal["original", "target", "retain", "unlearned"]


@dataclass(frozen=True)
class ModelReport:
    """One model of the comparison.

    `curve`: the rows of the training loop, one an optimiser step. `provenance`: what reproduces the model; `command`
    is shown as such, mappings as JSON, everything else as text.
    """

    name: str
    kind: Kind
    evaluation: Evaluation
    method: str | None = None  # of an unlearned model, such as ME+GD
    provenance: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[dict[str, Any]] = ()
    records: Sequence[Record] = ()
    mishaps: Sequence[str] = ()  # what its training went on from, or its log has lost

    def figures_of(self, role: Role) -> Mapping[str, Figure]:
        """Those of the first set of that role."""
        sets, roles = self.evaluation.sets, self.evaluation.roles
        return next((figures for name, figures in sets.items() if roles[name] is role), {})
