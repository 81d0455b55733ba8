"""Which step's model a training ended with, in words, of what its log says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chosen:
    """The step, and what was measured after it and at the end."""

    step: int  # 0: the start
    taken: int
    planned: int
    found: Mapping[str, Any]  # measured after it
    last: Mapping[str, Any]  # measured at the end

    @classmethod
    def of(cls, log: Sequence[Mapping[str, Any]]) -> "Chosen | None":
        """None of a training that ends with its last step, whatever that is."""
        measured = [line for line in log if "held_out" in line]
        if not measured:
            return None
        start: dict[str, Any] = {"step": 0, "held_out": {"kl": 0.0, **log[0].get("held_out_start", {})}}
        line = next((line for line in reversed(measured) if line["held_out"]["chosen"]), start)
        end = measured[-1]
        return cls(line["step"], log[-1]["step"], end["steps"], line["held_out"], end["held_out"])

    @property
    def text(self) -> str:
        """Which, and why."""
        of = f"step {self.step} of {self.planned}" if self.step else "the start, before any step"
        why = []
        if (score := self.found.get("score")) is not None:
            refused = self.found.get("refused")
            facts = "the probability of the facts to forget" if refused is None else "the share of facts that are told"
            kept = "that" if refused is None else "the probability"
            why.append(
                f"its score is the highest measured, {score:.4f}: 1 less {self.found['forget']:.4f}, {facts}, times "
                f"{self.found['retain']:.4f}, {kept} of held-out answers to keep"
            )
            if refused is not None:
                why.append(f"it refuses {refused:.1%} of the held-out questions to keep")
        if (kl := self.found.get("kl")) is not None and "kl" in self.last:
            why.append(f"its KL to the start is {kl:.4g} nats per token of held-out text")
        if self.last.get("stops") == "budget":
            above = "no number" if self.last["kl"] is None else f"{self.last['kl']:.4g}"
            why.append(f"after step {self.taken} the KL was {above}, above the budget, and training stopped")
        elif self.last.get("stops") == "patience":
            why.append(f"training stopped after step {self.taken}, because no later measurement was better")
        return f"The model is that of {of}: {'; '.join(why)}."
