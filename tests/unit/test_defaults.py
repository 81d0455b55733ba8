"""The options of methods and metrics that are numbers: their defaults, and the first values that are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from obliviate.methods import FORGET_TYPES, REGULARIZER_TYPES
from obliviate.methods.lunar import UNKNOWN
from obliviate.methods.repselect import MLP
from obliviate.schema import Spec
from obliviate_eval.metrics import COMPARISON_TYPES, METRIC_TYPES

KINDS: dict[str, type[Spec]] = {**FORGET_TYPES, **REGULARIZER_TYPES, **METRIC_TYPES, **COMPARISON_TYPES}
METHODS = [*FORGET_TYPES, *REGULARIZER_TYPES]
# By type: where it differs from 1, the weight; and every other option.
DEFAULTS: dict[str, dict[str, Any]] = {
    "npo": {"beta": 0.1, "reduction": "sum"},
    "dpo": {"beta": 0.1},
    "me": {"weight": 0.1, "direction": "uniform_to_model", "positions": "sequence"},
    "simnpo": {"weight": 0.125, "beta": 4.5, "delta": 0},
    "wga": {"beta": 1},
    "satimp": {"weight": 0.1, "beta1": 5, "beta2": 1},
    "undial": {"beta": 10},
    "ceu": {"skip": 1},
    "rmu": {"layer": 7, "steering": 2, "without": 0, "positions": "answer", "seed": None},
    "adaptive_rmu": {"layer": 7, "scale": 5, "positions": "answer", "seed": None},
    "altpo": {"beta": 0.1},
    "task_vector": {"scale": 1, "learning_rates": []},
    "flat": {"divergence": "kl"},
    "eul": {"bound": 10, "likelihood": 0.1},
    "whp": {"alpha": 5},
    "kfade": {"eta": 1, "steps": 3, "damping": 0.1, "texts": 256},
    "lunar": {"layer": 22, "coefficient": 2, "ridge": 1e-3, "prompts": [*UNKNOWN], "texts": None},
    "distortion": {"std": 0.02},
    "distance": {"weight": 0.1},
    "repselect": {"eta": 0.05, "steps": 10, "rank": 512, "adversary": 0.01, "trainable": MLP},
    "circuit_breakers": {"weight": 23, "ramp": [1, 0.75], "layers": [10, 20], "positions": "answer"},
    "shred": {"share": 0.3, "beta": 10, "top": 100, "skip": 0, "positions": "sequence"},
    "mlp_breaking": {
        "layers": [f"model.layers.{number}.mlp" for number in range(6, 12)],
        "floor": 0,
        "without": 32,
        "positions": "answer",
    },
    "repnoise": {
        "layers": [f"model.layers.{number}.mlp" for number in range(4, 28, 4)],
        "noise": 0.001,
        "surprise": 1,
    },
    "elm": {
        "novice": "The following is written by a novice who knows nothing of the subject.",
        "expert": "The following is written by an expert who knows all of the subject.",
        "eta": 1000,
    },
    "representations": {"weight": 2, "ramp": [0, 1], "layers": None, "relative": False, "positions": "answer"},
    "orthogonal": {"weight": 10, "ramp": [0, 1], "layers": None, "positions": "answer"},
    "kl": {"positions": "sequence"},
    "ap": {"beta": 0.1},
    "bounded_gd": {"weight": 100, "epsilon": 0.3, "step": 5, "warmup": 0.5},
    "activations": {"layer": None, "positions": "answer"},
    "divergence": {"positions": "sequence", "bound": None},
    "js": {"positions": "answer"},
    "wasserstein": {"weight": 0.1, "directions": 100, "order": 2, "reduction": "sum", "precision": "float32"},
    "rouge": {"words": "unicode", "definition": "tofu"},
    "probability": {"definition": "tofu"},
    "truth_ratio": {"definition": "closer_look"},
    "entailment": {"words": "unicode"},
    "extraction_strength": {"definition": "carlini"},
    "extent_of_knowledge": {"definition": "plain"},
    "verbatim_memorization": {"definition": "muse", "words": "unicode"},
    "knowledge_memorization": {"definition": "muse", "words": "unicode"},
    "accuracy": {"per": "option"},
    "leak_at_k": {"k": 4, "by": "rouge", "threshold": 0.5, "words": "unicode"},
    "expected_worst_rouge": {"k": 4, "words": "unicode"},
    "distinct_n": {"n": 2},
    "min_k_loss": {"k": 0.2},
    "min_k_plus_plus_loss": {"k": 0.2},
    "exact_match": {"definition": "plain", "cue": None},
    "token_f1": {"definition": "plain"},
    "ngram_entropy": {"definition": "plain"},
    "rouge_f1": {"words": "unicode"},
    "rouge_1": {"words": "unicode"},
    "hit_rate": {"k": 100},
    "mia_loss": {"forget_set": None, "end_of_turn": True},
    "mia_zlib": {"forget_set": None},
    "mia_min_k": {"forget_set": None, "k": 0.4},
    "mia_min_k_plus_plus": {"forget_set": None, "k": 0.4},
    "mia_reference": {"forget_set": None},
    "mia_gradnorm": {"forget_set": None},
    "privleak": {"attack": {"type": "mia_min_k", "forget_set": None, "k": 0.4}, "definition": "muse"},
    "rel_diff": {"attack": {"type": "mia_min_k", "forget_set": None, "k": 0.4}, "definition": "plain"},
    "leak_bound": {"k": 4, "by": "rouge", "threshold": 0.5, "words": "unicode"},
    "worst_question": {"of": {"type": "key_said"}},
    "mia_score": {"attack": {"type": "mia_loss", "forget_set": None, "end_of_turn": True}},
}


@pytest.mark.parametrize("name", KINDS)
def test_defaults(name: str) -> None:
    common: dict[str, Any] = {"type": name}
    if name in METHODS:
        common |= {"weight": 1}
    if name in FORGET_TYPES:
        common |= {"trainable": None}
    assert KINDS[name]().model_dump(mode="json") == {**common, **DEFAULTS.get(name, {})}


SMALL = 1e-9
POSITIVE, NOT_NEGATIVE = ([SMALL], [0]), ([0], [-SMALL])  # what is taken, and what is refused
OF_LAYERS = ("circuit_breakers", "representations", "orthogonal", "mlp_breaking")
SHARE, FROM_1 = ([SMALL, 1], [0, 1 + SMALL]), ([1], [0])


@pytest.mark.parametrize(
    ("name", "option", "bounds"),
    [
        *((name, "weight", NOT_NEGATIVE) for name in METHODS),
        *((name, "beta", POSITIVE) for name in ("npo", "dpo", "simnpo", "undial", "altpo", "ap", "shred")),
        ("simnpo", "delta", NOT_NEGATIVE),
        ("wga", "beta", NOT_NEGATIVE),
        ("satimp", "beta1", NOT_NEGATIVE),
        ("satimp", "beta2", NOT_NEGATIVE),
        ("ceu", "skip", ([0], [-1])),
        ("rmu", "layer", ([0], [-1])),
        ("rmu", "steering", POSITIVE),
        ("rmu", "seed", ([0], [-1])),
        ("adaptive_rmu", "scale", POSITIVE),
        ("adaptive_rmu", "seed", ([0], [-1])),
        ("task_vector", "scale", POSITIVE),
        ("task_vector", "learning_rates", ([[SMALL]], [[0]])),
        ("eul", "bound", POSITIVE),
        ("repselect", "eta", POSITIVE),
        ("repselect", "steps", FROM_1),
        ("repselect", "rank", FROM_1),
        ("repselect", "adversary", NOT_NEGATIVE),
        ("distortion", "std", POSITIVE),
        ("kfade", "eta", POSITIVE),
        ("kfade", "steps", FROM_1),
        ("kfade", "damping", POSITIVE),
        ("kfade", "texts", FROM_1),
        *(("lunar", name, POSITIVE) for name in ("coefficient", "ridge")),
        ("lunar", "prompts", ([["?"]], [[]])),
        ("lunar", "texts", FROM_1),
        ("eul", "likelihood", NOT_NEGATIVE),
        ("whp", "alpha", POSITIVE),
        ("divergence", "bound", POSITIVE),
        ("bounded_gd", "epsilon", NOT_NEGATIVE),
        ("bounded_gd", "step", NOT_NEGATIVE),
        ("bounded_gd", "warmup", ([0, 1], [-SMALL, 1 + SMALL])),
        *((name, "ramp", ([[0, 0]], [[-SMALL, 1]])) for name in OF_LAYERS if name != "mlp_breaking"),
        *((name, "layers", ([[0]], [[], [-1]])) for name in OF_LAYERS),
        *((name, "without", ([0], [-1])) for name in ("rmu", "mlp_breaking")),
        ("repnoise", "layers", ([[0]], [[], [-1]])),
        ("repnoise", "noise", NOT_NEGATIVE),
        ("repnoise", "surprise", NOT_NEGATIVE),
        ("elm", "eta", POSITIVE),
        *(("elm", name, (["?"], [""])) for name in ("novice", "expert")),
        ("shred", "share", SHARE),
        ("shred", "top", FROM_1),
        ("shred", "skip", ([0], [-1])),
        ("wasserstein", "directions", FROM_1),
        ("wasserstein", "order", ([1], [1 - SMALL])),
        *((name, "k", FROM_1) for name in ("leak_at_k", "expected_worst_rouge", "hit_rate", "leak_bound")),
        ("distinct_n", "n", FROM_1),
        *((name, "threshold", SHARE) for name in ("leak_at_k", "leak_bound")),
        *((name, "k", SHARE) for name in ("min_k_loss", "min_k_plus_plus_loss", "mia_min_k", "mia_min_k_plus_plus")),
    ],
)  # fmt: skip
def test_bounds(name: str, option: str, bounds: tuple[list[Any], list[Any]]) -> None:
    taken, refused = bounds
    for value in taken:
        assert KINDS[name].model_validate({option: value}).model_dump(mode="json")[option] == value
    for value in refused:
        with pytest.raises(ValidationError, match=option):
            KINDS[name].model_validate({option: value})
