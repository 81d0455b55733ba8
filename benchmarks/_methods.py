"""The compositions that benchmarks run: every forget objective, with the companions that it was published with.

Opt-Out comes without its world data, of which the benchmarks' data have none."""

BASELINE = "ga+gd"
METHODS = (
    BASELINE, "ga", "ga+kl", "npo+gd", "npo+kl", "simnpo+gd", "dpo+gd", "altpo+gd", "idk+gd", "idk+ap", "me+gd",
    "npo+gd+wasserstein", "snap",
    "wga+gd", "satimp+gd", "undial", "ceu", "pdu", "rmu", "adaptive_rmu", "llmu",
    "flat", "jensun", "ihl+gd", "unilogit+gd", "task_vector", "sku", "eul",
)  # fmt: skip
QUICK = (BASELINE, "npo+gd", "dpo+gd", "me+gd", "npo+kl", "rmu")
