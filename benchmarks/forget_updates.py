"""What does a step cost when the forget objective is updated apart, beside one joint update of NPO and GD?

Alternating updates; an optimiser state for each (DualOptim); the sharpness-aware forget gradient; and the projected
update with an optimiser state for each (PGU, whose directions are found before the first step and are not part of its
time). SmolLM2-135M-Instruct on invented people, four items a step. All sides train for a few steps in turn, round after
round, in one process; the first step of each training warms up and is left out.

It would count against us if two updates on the same texts took more than half as long again as one, or the
sharpness-aware step, which reads the forget texts twice, more than twice as long.

JSON keys: joint_step_s; ratio_alternating, ratio_dual, ratio_sharpness, ratio_projection (medians over the rounds of
each round's median to the joint one's), with _low and _high.
"""

from typing import Any

from _steps import compare_steps

from obliviate.methods import GD, NPO
from obliviate.schema import ProjectionSpec, SharpnessSpec

NPO_GD = (NPO(), GD())
SIDES: dict[str, dict[str, Any]] = {
    "joint": {"terms": NPO_GD},
    "alternating": {"terms": NPO_GD, "updates": "alternating"},
    "dual": {"terms": NPO_GD, "updates": "dual"},
    "sharpness": {"terms": NPO_GD, "sharpness": SharpnessSpec()},
    "projection": {"terms": NPO_GD, "updates": "dual", "projection": ProjectionSpec(texts=16)},
}

if __name__ == "__main__":
    compare_steps(__doc__, SIDES)
