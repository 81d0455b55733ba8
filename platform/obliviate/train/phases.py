"""Which terms an optimiser update follows, and which of its gradients are computed together.

Opt-Out's code (arXiv:2406.12329v3) alternates: two updates a step, of one optimiser state and at one learning rate. It
clips only the second update's gradient; here both are clipped alike. DualOptim (arXiv:2504.15827) gives each of the two
an optimiser state of its own, so that the momentum of forgetting does not run through what retaining does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from obliviate.methods import ForgetObjective, Needs, Term, union_of_needs

Updates = Literal["joint", "alternating", "dual", "dual_plus"]


@dataclass(frozen=True)
class Phase:
    """Terms whose gradient is computed together, as indices, and what they need."""

    terms: tuple[int, ...]
    needs: Needs
    of_forget: bool  # whether it is the forget objective alone

    @property
    def trained(self) -> Needs:
        return {each: stats for each, stats in self.needs.items() if not each.of_reference}


@dataclass(frozen=True)
class Update:
    """Phases whose gradients are added up for one step of an optimiser."""

    phases: tuple[Phase, ...]
    optimizer: int = 0  # which of the optimiser states

    @property
    def of_forget(self) -> bool:
        return all(phase.of_forget for phase in self.phases)


# Keys of a run that look at the forget objective's gradient by itself, also where it shares an update with the others.
APART = ("sharpness", "latent", "stability", "rectification", "quantisation", "tampering")


def plan_updates(terms: Sequence[Term], needs: Needs, updates: Updates, *, forget_apart: bool) -> list[Update]:
    """The updates of each step. `forget_apart`: the forget objective's gradient is wanted by itself, also where it
    shares an update with the others.

    `needs` is the union over all terms: a pass is run as all of them want it, because what is kept of the reference
    model is laid out so.
    """
    every = range(len(terms))
    of_forget = [index for index in every if isinstance(terms[index], ForgetObjective)]
    rest = [index for index in every if index not in of_forget]
    if updates == "joint" and not forget_apart:
        return [Update((_phase(terms, needs, list(every)),))]
    phases = [_phase(terms, needs, indices) for indices in (of_forget, rest) if indices]
    if updates == "joint":
        return [Update(tuple(phases))]
    return [Update((phase,), 0 if updates == "alternating" else number) for number, phase in enumerate(phases)]


def _phase(terms: Sequence[Term], needs: Needs, indices: Sequence[int]) -> Phase:
    passes = union_of_needs([terms[index] for index in indices])
    alone = all(isinstance(terms[index], ForgetObjective) for index in indices)
    return Phase(tuple(indices), {each: needs[each] for each in passes}, alone)
