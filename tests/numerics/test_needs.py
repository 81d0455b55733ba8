"""Which forward passes each method asks for, and what is read of several methods together."""

from math import inf

import pytest
import torch

from obliviate.errors import UserError
from obliviate.methods import (
    AP,
    ELM,
    FORGET_TYPES,
    GA,
    GD,
    IDK,
    KL,
    ME,
    NPO,
    REGULARIZER_TYPES,
    RMU,
    UNDIAL,
    WHP,
    Activations,
    AdaptiveRMU,
    AltPO,
    Disassociation,
    Divergence,
    Loss,
    Marked,
    Mismatch,
    Needs,
    Negation,
    Pass,
    Positions,
    TaskVector,
    Term,
    Text,
    Wasserstein,
    World,
    check_texts,
    compares,
    composed,
    expand,
    label_of,
    needs_reinforced,
    reads,
    samples,
    union_of_needs,
    widest,
)
from obliviate.scoring import Activation, Distilled, Generic, Stat, Steered

ANSWER, SEQUENCE, PADDED = Positions
LOGP = {Stat.LOGP: ANSWER}
PREFERENCE = {Pass.FORGET: LOGP, Pass.REFERENCE_FORGET: LOGP}
NEEDS = {
    "ga": {Pass.FORGET: LOGP},
    "npo": PREFERENCE,
    "dpo": {**PREFERENCE, Pass.FORGET_IDK: LOGP, Pass.REFERENCE_FORGET_IDK: LOGP},
    "idk": {Pass.FORGET_IDK: LOGP},
    "me": {Pass.FORGET: {Stat.UNIFORM_KL: SEQUENCE}},
    "simnpo": {Pass.FORGET: LOGP},
    "wga": {Pass.FORGET: LOGP},
    "satimp": {Pass.FORGET: LOGP},
    "undial": {Pass.FORGET: {Distilled("reference", 10.0): ANSWER}},
    "ceu": {Pass.FORGET: {Distilled("self", inf): ANSWER}},
    "pdu": {Pass.FORGET: {Stat.LOGIT_GAP: ANSWER}},
    "rmu": {Pass.FORGET: {Activation(7): ANSWER}},
    "adaptive_rmu": {Pass.FORGET: {Activation(7): ANSWER}, Pass.REFERENCE_FORGET: {Activation(7): ANSWER}},
    "altpo": {**PREFERENCE, Pass.FORGET_ALTERNATIVE: LOGP, Pass.REFERENCE_FORGET_ALTERNATIVE: LOGP},
    "task_vector": {Pass.FORGET: LOGP},
    "flat": {Pass.FORGET: LOGP, Pass.FORGET_IDK: LOGP},
    "jensun": {Pass.FORGET_IDK: LOGP},
    "ihl": {Pass.FORGET: {Stat.LOGP: ANSWER, Stat.RIVAL: ANSWER}},
    "unilogit": {Pass.FORGET: {Stat.LOGP: ANSWER, Stat.LOG_VOCABULARY: ANSWER}},
    "eul": {Pass.FORGET: {Stat.LOGP: ANSWER, Stat.REFERENCE_KL: ANSWER}},
    "icku": {Pass.FORGET_MARKED_IDK: LOGP},
    "whp": {Pass.FORGET: {Generic(5.0): ANSWER}},
    "repselect": {Pass.FORGET: {Stat.LOGP: ANSWER}},
    "distortion": {},
    "distance": {},
    "circuit_breakers": {
        each: {Activation(10): ANSWER, Activation(20): ANSWER} for each in (Pass.FORGET, Pass.REFERENCE_FORGET)
    },
    "shred": {
        Pass.FORGET: {Distilled("reference", 10.0, 100): SEQUENCE, Distilled("reference", 0.0, 100): SEQUENCE},
        Pass.REFERENCE_FORGET: LOGP,
    },
    "mlp_breaking": {
        each: {Activation(f"model.layers.{number}.mlp", 32): ANSWER for number in range(6, 12)}
        for each in (Pass.FORGET, Pass.REFERENCE_FORGET)
    },
    "kfade": {Pass.FORGET: LOGP},
    "lunar": {Pass.FORGET: LOGP},
    "masc": {Pass.FORGET: {Stat.LOGP: ANSWER, Stat.RIVAL: ANSWER}},
    "repnoise": {
        Pass.FORGET: {**{Activation(f"model.layers.{number}.mlp"): ANSWER for number in range(4, 28, 4)}, **LOGP},
        Pass.FORGET_OTHER: {Activation(f"model.layers.{number}.mlp"): ANSWER for number in range(4, 28, 4)},
    },
    "elm": {Pass.FORGET: {Steered(ELM().novice, ELM().expert, 1000.0): ANSWER}},
    "gd": {Pass.RETAIN: LOGP},
    "kl": {Pass.RETAIN: {Stat.REFERENCE_KL: SEQUENCE}},
    "ap": {Pass.RETAIN: LOGP, Pass.RETAIN_IDK: LOGP},
    "mismatch": {Pass.FORGET_MISMATCH: LOGP},
    "bounded_gd": {Pass.RETAIN: LOGP},
    "activations": {Pass.RETAIN: {Activation(5): ANSWER}, Pass.REFERENCE_RETAIN: {Activation(5): ANSWER}},
    "disassociation": {Pass.FORGET_SHUFFLED: LOGP},
    "divergence": {Pass.RETAIN: {Stat.REFERENCE_KL: SEQUENCE}},
    "js": {Pass.RETAIN: {Stat.REFERENCE_JS: ANSWER}},
    "marked": {Pass.RETAIN_MARKED: LOGP},
    "world": {Pass.WORLD: LOGP},
    "wasserstein": {},
    "representations": {Pass.RETAIN: {Activation(5): ANSWER}, Pass.REFERENCE_RETAIN: {Activation(5): ANSWER}},
    "orthogonal": {Pass.FORGET: {Activation(5): ANSWER}, Pass.FORGET_OTHER: {Activation(5): ANSWER}},
}
OPTIONS: dict[str, dict[str, object]] = {
    "activations": {"layer": 5},
    "representations": {"layers": [5]},
    "orthogonal": {"layers": [5]},
}


@pytest.mark.parametrize("name", [*FORGET_TYPES, *REGULARIZER_TYPES])
def test_what_each_method_needs(name: str) -> None:
    term = {**FORGET_TYPES, **REGULARIZER_TYPES}[name].model_validate({"type": name, **OPTIONS.get(name, {})})
    assert term.needs == NEEDS[name]


def test_what_is_counted_is_counted_in_the_values_type() -> None:
    values, mask = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[True, False]])
    for loss, total, count in ((Loss.mean(values), 3, 2), (Loss.mean(values, mask), 1, 1)):
        assert (float(loss.sum), float(loss.count)) == (total, count)
        assert loss.count.dtype is torch.float64


def test_layers_are_counted_from_0_or_named() -> None:
    assert [RMU(layer=layer).layer for layer in (0, 1, "model.layers.7")] == [0, 1, "model.layers.7"]
    with pytest.raises(ValueError, match=r"is -1; layers are counted from 0"):
        RMU(layer=-1)


def test_options_change_what_is_needed() -> None:
    assert ME(direction="model_to_uniform", positions=PADDED).needs == {Pass.FORGET: {Stat.ENTROPY: PADDED}}
    assert KL(positions=ANSWER).needs == {Pass.RETAIN: {Stat.REFERENCE_KL: ANSWER}}
    assert RMU(without=32).needs == {Pass.FORGET: {Activation(7, 32): ANSWER}}
    assert AdaptiveRMU(layer=2, positions=SEQUENCE).needs[Pass.REFERENCE_FORGET] == {Activation(2): SEQUENCE}


def test_the_wider_positions_win_in_any_order() -> None:
    assert [widest([ANSWER, SEQUENCE]), widest([SEQUENCE, ANSWER])] == [SEQUENCE, SEQUENCE]
    assert widest([PADDED, SEQUENCE, ANSWER]) is PADDED
    for terms in ([KL(), KL(positions=ANSWER)], [KL(positions=ANSWER), KL()]):
        assert union_of_needs(terms) == {Pass.RETAIN: {Stat.REFERENCE_KL: SEQUENCE}}


def test_what_compares_with_the_starting_model() -> None:
    """By a pass of its own, or by a statistic of the trained model's pass."""
    assert [compares(term.needs) for term in (NPO(), KL(), UNDIAL())] == [True, True, True]
    assert [compares(term.needs) for term in (GA(), ME(), Wasserstein())] == [False, False, False]
    assert compares(union_of_needs([GA(), GD(), KL()]))


def test_a_pass_knows_the_text_that_it_reads() -> None:
    assert [each.of_reference for each in (Pass.REFERENCE_FORGET_IDK, Pass.FORGET_IDK)] == [True, False]
    assert Pass.REFERENCE_FORGET_IDK.text == Pass.FORGET_IDK.text == Pass.FORGET_IDK
    assert Pass.FORGET_IDK.reference == Pass.REFERENCE_FORGET_IDK.reference == Pass.REFERENCE_FORGET_IDK
    assert [str(each) for each in (Pass.REFERENCE_RETAIN, Pass.RETAIN)] == ["reference_retain", "retain"]


def test_whose_rows_methods_read() -> None:
    """`mismatch` puts the answers of retain rows to forget questions."""
    reading: list[Term] = [GD(), KL(), AP(), Marked(), Mismatch()]
    assert [reads([GA(), term], "retain") for term in reading] == [True] * 5
    assert [reads([term], "forget") for term in (GD(), Mismatch(), World(), GA())] == [False, True, False, True]
    assert not reads([NPO(), IDK(), World(), Disassociation()], "retain")
    assert [reads([term], "world") for term in (World(), GD())] == [True, False]
    assert not reads([], "retain")


def test_what_methods_ask_for_beside_texts() -> None:
    """AltPO has answers sampled; "Who's Harry Potter" has a second model trained."""
    assert [samples([GD(), term]) for term in (AltPO(), IDK(), GA())] == [True, False, False]
    assert [needs_reinforced([GD(), term]) for term in (WHP(), UNDIAL(), GA())] == [True, False, False]


def test_regularizers_are_told_what_they_stand_beside() -> None:
    assert composed([RMU(layer=3), Activations(), GD()]) == (RMU(layer=3), Activations(layer=3), GD())
    assert composed([GD(), Activations()]) == (GD(), Activations())  # fine-tuning forgets nothing
    with pytest.raises(ValueError, match="activations"):
        composed([NPO(), Activations()])
    assert composed([TaskVector(), Divergence()]) == (TaskVector(), Divergence())
    with pytest.raises(ValueError, match=r"^regularizers: divergence beside npo would only destroy"):
        composed([NPO(), Divergence()])


def test_what_is_negated() -> None:
    assert TaskVector(scale=2, learning_rates=(1e-5,)).negation == Negation(2, (1e-5,))
    assert NPO().negation is None


def test_a_label_is_the_terms_names() -> None:
    assert label_of([NPO(), GD(), Wasserstein()]) == "NPO+GD+WASSERSTEIN"


def test_short_forms_know_no_case_and_aliases_may_be_named_in_any() -> None:
    assert expand("NPO+Gd") == expand("npo+gd") == {"method": {"type": "npo"}, "regularizers": [{"type": "gd"}]}
    assert expand("Snap") == {
        "method": {"type": "idk"},
        "regularizers": [{"type": "gd"}, {"type": "wasserstein"}],
    }


class Mine(GA):
    """A method of somebody else's."""


def test_the_place_of_a_class_keeps_its_case() -> None:
    found = {"type": "custom", "import": f"{Mine.__module__}.Mine"}
    assert expand(f"{Mine.__module__}.Mine+GD") == {"method": found, "regularizers": [{"type": "gd"}]}


def test_a_name_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError) as forget:
        expand("npoo+gd")
    known = ", ".join([*FORGET_TYPES])
    assert str(forget.value).startswith(f"method: npoo+gd: no forget objective 'npoo'; known: {known}, llmu, ")
    assert str(forget.value).count(" pdu,") == 1  # a method and a short form
    with pytest.raises(UserError, match=r"^method: npo\+gdd: no regularizer 'gdd'; known: gd, kl, ap, mismatch, "):
        expand("npo+gdd")


def test_padding_cannot_count_for_one_of_two_terms_on_the_same_texts() -> None:
    padded, sequence = ME(positions=PADDED), AdaptiveRMU(positions=SEQUENCE)
    for terms in ([padded, sequence], [sequence, padded]):
        with pytest.raises(ValueError, match=r"^positions: me with padded and adaptive_rmu with sequence read the sam"):
            check_texts(terms)
    check_texts([padded, NPO(), KL()])  # the answer alone, and other texts
    check_texts([padded, padded])
    check_texts([ME(), sequence])


class Other(GA):
    """Of texts that it calls as ours are called."""

    @property
    def needs(self) -> Needs:
        return {Text("forget", "retain"): LOGP}


def test_two_texts_of_one_name() -> None:
    with pytest.raises(ValueError, match=r"^needs: ga and another term have texts called forget; rename one"):
        check_texts([NPO(), Other()])
    check_texts([NPO(), GA(), KL()])  # the reference's pass over a text is no other text
