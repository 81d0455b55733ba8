"""Every method, in two closed unions, and the short form that composes them: "npo+gd" is NPO with GD."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, get_args

from pydantic import Field

from obliviate.errors import UserError
from obliviate.methods.activations import Activations
from obliviate.methods.adaptive_rmu import AdaptiveRMU
from obliviate.methods.altpo import AltPO
from obliviate.methods.ap import AP
from obliviate.methods.base import (
    Ascent,
    Curvature,
    ForgetObjective,
    Loss,
    Needs,
    Negation,
    ParameterRegularizer,
    ParameterTerm,
    Pass,
    Positions,
    Redirection,
    Regularizer,
    Scores,
    Selection,
    Term,
    compares,
)
from obliviate.methods.bounded_gd import BoundedGD
from obliviate.methods.ceu import CEU
from obliviate.methods.circuit_breakers import CircuitBreakers
from obliviate.methods.disassociation import Disassociation
from obliviate.methods.distance import Distance
from obliviate.methods.distortion import Distortion
from obliviate.methods.divergence import Divergence
from obliviate.methods.dpo import DPO
from obliviate.methods.elm import ELM
from obliviate.methods.eul import EUL
from obliviate.methods.flat import FLAT
from obliviate.methods.ga import GA
from obliviate.methods.gd import GD
from obliviate.methods.icku import ICKU
from obliviate.methods.idk import IDK
from obliviate.methods.ihl import IHL
from obliviate.methods.jensun import JensUn
from obliviate.methods.js import JS
from obliviate.methods.kfade import KFADE
from obliviate.methods.kl import KL
from obliviate.methods.lunar import LUNAR
from obliviate.methods.marked import Marked
from obliviate.methods.masc import MASC
from obliviate.methods.me import ME
from obliviate.methods.mismatch import Mismatch
from obliviate.methods.mlp_breaking import MLPBreaking
from obliviate.methods.npo import NPO
from obliviate.methods.orthogonal import Orthogonal
from obliviate.methods.pdu import PDU
from obliviate.methods.repnoise import RepNoise
from obliviate.methods.representations import Representations
from obliviate.methods.repselect import RepSelect
from obliviate.methods.rmu import RMU
from obliviate.methods.satimp import SatImp
from obliviate.methods.shred import SHRED
from obliviate.methods.simnpo import SimNPO
from obliviate.methods.task_vector import TaskVector
from obliviate.methods.texts import Set, Text, alternative
from obliviate.methods.undial import UNDIAL
from obliviate.methods.unilogit import Unilogit
from obliviate.methods.wasserstein import Wasserstein
from obliviate.methods.wga import WGA
from obliviate.methods.whp import WHP
from obliviate.methods.world import World
from obliviate.plugins import Door, by_name
from obliviate.scoring import AnyStat, Generic

__all__ = [
    "ALIASES",
    "AP",
    "CEU",
    "DPO",
    "ELM",
    "EUL",
    "FLAT",
    "FORGET_DOOR",
    "FORGET_TYPES",
    "GA",
    "GD",
    "ICKU",
    "IDK",
    "IHL",
    "JS",
    "KFADE",
    "KL",
    "LUNAR",
    "MASC",
    "ME",
    "NPO",
    "PDU",
    "REGULARIZER_DOOR",
    "REGULARIZER_TYPES",
    "RMU",
    "SHRED",
    "UNDIAL",
    "WGA",
    "WHP",
    "Activations",
    "AdaptiveRMU",
    "AltPO",
    "AnyForgetSpec",
    "AnyRegularizerSpec",
    "Ascent",
    "BoundedGD",
    "CircuitBreakers",
    "Curvature",
    "Disassociation",
    "Distance",
    "Distortion",
    "Divergence",
    "ForgetObjective",
    "JensUn",
    "Loss",
    "MLPBreaking",
    "Marked",
    "Mismatch",
    "Needs",
    "Negation",
    "Orthogonal",
    "ParameterRegularizer",
    "ParameterTerm",
    "Pass",
    "Positions",
    "Redirection",
    "Regularizer",
    "RepNoise",
    "RepSelect",
    "Representations",
    "SatImp",
    "Scores",
    "Selection",
    "SimNPO",
    "TaskVector",
    "Term",
    "Text",
    "Unilogit",
    "Wasserstein",
    "World",
    "check_texts",
    "compares",
    "composed",
    "expand",
    "label_of",
    "needs_reinforced",
    "reads",
    "samples",
    "union_of_needs",
    "widest",
]

AnyForget = (
    GA | NPO | DPO | IDK | ME | SimNPO | WGA | SatImp | UNDIAL | CEU | PDU | RMU | AdaptiveRMU | AltPO | TaskVector
    | FLAT | JensUn | IHL | Unilogit | EUL | ICKU | WHP | RepSelect | Distortion | Distance | CircuitBreakers | SHRED
    | MLPBreaking | KFADE | MASC | RepNoise | ELM | LUNAR
)  # fmt: skip
AnyRegularizer = (
    GD
    | KL
    | AP
    | Mismatch
    | BoundedGD
    | Activations
    | Disassociation
    | Divergence
    | JS
    | Marked
    | World
    | Wasserstein
    | Representations
    | Orthogonal
)
FORGET_TYPES: dict[str, type[ForgetObjective]] = {cls.model_fields["type"].default: cls for cls in get_args(AnyForget)}
REGULARIZER_TYPES: dict[str, type[Regularizer]] = {
    cls.model_fields["type"].default: cls for cls in get_args(AnyRegularizer)
}
# What a name alone stands for: published compositions of several terms.
ALIASES = {
    "llmu": "ga+mismatch+kl",
    "pdu": "pdu+bounded_gd",
    "rmu": "rmu+activations",
    "adaptive_rmu": "adaptive_rmu+activations",
    "circuit_breakers": "circuit_breakers+representations",
    "orthogonal_circuit_breakers": "circuit_breakers+representations+orthogonal",
    "mlp_breaking": "mlp_breaking+representations",
    "repnoise": "repnoise+gd",
    "jensun": "jensun+js",
    "elm": "elm+kl",
    "eul": "eul+kl+gd",
    "icku": "icku+marked",
    "sku": "task_vector+disassociation+divergence",
    "opt_out": "npo+gd+world+wasserstein",
    "snap": "idk+gd+wasserstein",
}


TAKEN = {*FORGET_TYPES, *REGULARIZER_TYPES, *ALIASES}
FORGET_DOOR = Door("obliviate.methods", (ForgetObjective,), FORGET_TYPES, TAKEN, told=("hides",))
REGULARIZER_DOOR = Door("obliviate.methods", (Regularizer,), REGULARIZER_TYPES, TAKEN)
AnyForgetSpec = Annotated[AnyForget, Field(discriminator="type"), FORGET_DOOR]
AnyRegularizerSpec = Annotated[AnyRegularizer, Field(discriminator="type"), REGULARIZER_DOOR]


def expand(text: str) -> dict[str, Any]:
    """ "npo+gd" -> the `method` and `regularizers` of a config, with default weights. Raises UserError."""
    forget, *regularizers = (_term(name) for name in ALIASES.get(text.lower(), text).split("+"))
    if not FORGET_DOOR.knows(forget):
        known = dict.fromkeys([*FORGET_TYPES, *ALIASES, *FORGET_DOOR.known])
        raise UserError(f"method: {text}: no forget objective {forget['type']!r}; known: {', '.join(known)}")
    for each in regularizers:
        if not REGULARIZER_DOOR.knows(each):
            known = dict.fromkeys(REGULARIZER_DOOR.known)
            raise UserError(f"method: {text}: no regularizer {each['type']!r}; known: {', '.join(known)}")
    return {"method": forget, "regularizers": regularizers}


def _term(name: str) -> dict[str, str]:
    return by_name(name if "." in name else name.lower())


def composed(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The regularizers as they are beside the forget objective. Raises ValueError where one does not go with it."""
    forget = next((term for term in terms if isinstance(term, ForgetObjective)), None)
    return tuple(term if forget is None or not isinstance(term, Regularizer) else term.beside(forget) for term in terms)


def union_of_needs(terms: Sequence[Term]) -> dict[Text, dict[AnyStat, Positions]]:
    """What all terms need together; where two want a statistic at different positions, the wider."""
    union: dict[Text, dict[AnyStat, Positions]] = {}
    for term in terms:
        for each, stats in term.needs.items():
            wanted = union.setdefault(each, {})
            for stat, positions in stats.items():
                wanted[stat] = widest([positions, wanted.get(stat, positions)])
    return union


def widest(positions: Iterable[Positions]) -> Positions:
    return max(positions, key=list(Positions).index)


def label_of(terms: Iterable[Term]) -> str:
    """As reports call a method: NPO+GD."""
    return "+".join(term.type for term in terms).upper()


def reads(terms: Sequence[Term], name: Set) -> bool:
    """Whether any of them is trained on texts that are made of this set's rows."""
    return any(name in (each.of, each.also) for each in union_of_needs(terms))


def samples(terms: Sequence[Term]) -> bool:
    """Whether any of them prefers other answers, which are sampled where the rows bring none."""
    return any(each.answer is alternative for each in union_of_needs(terms))


def needs_reinforced(terms: Sequence[Term]) -> bool:
    """Whether any of them looks at a second model, which has learned the forget set once more."""
    return any(isinstance(stat, Generic) for stats in union_of_needs(terms).values() for stat in stats)


def check_texts(terms: Iterable[Term]) -> None:
    """Raises ValueError for two texts of one name, and where one term reads a text with padding and another the same
    text without."""
    found: dict[tuple[Text, Positions], str] = {}
    named: dict[str, Text] = {}
    for term in terms:
        for each, stats in term.needs.items():
            if named.setdefault(each.name, each.text) != each.text:
                raise ValueError(f"needs: {term.type} and another term have texts called {each.name}; rename one")
            found |= {(each.text, at): term.type for at in stats.values()}
    for (each, at), padded in found.items():
        if at is Positions.PADDED and (other := found.get((each, Positions.SEQUENCE))):
            raise ValueError(
                f"positions: {padded} with padded and {other} with sequence read the same texts, and padding would "
                "count for both; give both the same positions, or one of them answer"
            )
