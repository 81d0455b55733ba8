"""What does a step of Opt-Out cost, beside a step of gradient descent on the retain set alone?

GD alone; GD with the sliced Wasserstein distance (100 directions, all parameters); Opt-Out whole (NPO, GD, world data
and the distance), and with alternating updates. SmolLM2-135M-Instruct on invented people, four items a step. All sides
train for a few steps in turn, round after round, in one process; the first step of each training warms up and is left
out. The distance's products and sorts go over all weights, whatever the batch: four items are a hard case.

It would count against us if the distance alone cost more than twice the whole GD step.

JSON keys: gd_step_s; ratio_gd_wasserstein, ratio_opt_out, ratio_opt_out_alternating (medians over the rounds of each
round's median to GD's), with _low and _high.
"""

from typing import Any

from _steps import compare_steps

from obliviate.methods import GD, NPO, Wasserstein, World

OPT_OUT = (NPO(reduction="mean"), GD(), World(), Wasserstein())
SIDES: dict[str, dict[str, Any]] = {
    "gd": {"terms": (GD(),)},
    "gd_wasserstein": {"terms": (GD(), Wasserstein())},
    "opt_out": {"terms": OPT_OUT},
    "opt_out_alternating": {"terms": OPT_OUT, "updates": "alternating"},
}

if __name__ == "__main__":
    compare_steps(__doc__, SIDES)
