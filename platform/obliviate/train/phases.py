"""Which terms an optimiser update follows: all of them together, or the forget term first and then the others.

Opt-Out's code (arXiv:2406.12329v3) alternates: two updates a step, of one optimiser state and at one learning rate. It
clips only the second update's gradient; here both are clipped alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from obliviate.methods import ForgetObjective, Needs, Term, union_of_needs


@dataclass(frozen=True)
class Phase:
    """Terms that one update follows together, as indices, and what they need."""

    terms: tuple[int, ...]
    needs: Needs

    @property
    def trained(self) -> Needs:
        return {each: stats for each, stats in self.needs.items() if not each.of_reference}


def phases(terms: Sequence[Term], needs: Needs, updates: Literal["joint", "alternating"]) -> list[Phase]:
    """`needs` is the union over all terms: a pass is run as all of them want it, because what is kept of the reference
    model is laid out so."""
    every = range(len(terms))
    split = [list(every)]
    if updates == "alternating":
        of_forget = [index for index in every if isinstance(terms[index], ForgetObjective)]
        split = [of_forget, [index for index in every if index not in of_forget]]
    found = []
    for indices in filter(None, split):
        passes = union_of_needs([terms[index] for index in indices])
        found.append(Phase(tuple(indices), {each: needs[each] for each in passes}))
    return found
