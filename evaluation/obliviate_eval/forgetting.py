"""The forgetting matrix of a continual run: how far every task is forgotten after every step.

R[i][j] is the forget efficacy of task j after step i; step 0 is the model before the first one, and task j is forgotten
at step j (both counted from 1). Below the diagonal stands what later steps did to tasks that were forgotten before.

Backward leakage after step i is the mean over earlier tasks j < i of R[j][j] - R[i][j]: positive where forgotten facts
come back. It is backward transfer (Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 3) of forgetting, with the sign
turned. Spill after step i is the mean over later tasks j > i of R[i][j] - R[0][j]: what was lost without being asked.
"""

from collections.abc import Sequence
from statistics import fmean

from obliviate.errors import UserError
from obliviate.schema import Spec
from obliviate_eval.records import Record
from obliviate_eval.statistics import Figure
from obliviate_eval.suites.base import Suite
from obliviate_eval.summary import Evaluation, summarise

EFFICACY = "forget_efficacy"
UTILITIES = ("model_utility", "tofu_model_utility")


class ForgettingMatrix(Spec):
    """Of one method. Figures with their bootstrap intervals over items; None where nothing could be scored."""

    name: str
    tasks: tuple[str, ...]  # in the order of the requests
    efficacy: tuple[tuple[Figure, ...], ...]  # R: [steps + 1][tasks]
    utility: tuple[Figure, ...]  # [steps + 1]

    def value(self, step: int, task: int) -> float | None:
        """R[step][task], tasks counted from 1."""
        return self.efficacy[step][task - 1].value

    def leakage(self, step: int) -> float | None:
        """None before the second step, and where a task could not be measured."""
        return _mean_difference([(self.value(task, task), self.value(step, task)) for task in range(1, step)])

    def spill(self, step: int) -> float | None:
        """None before the first step and after the last, and where a task could not be measured."""
        later = range(step + 1, len(self.tasks) + 1) if step else ()
        return _mean_difference([(self.value(step, task), self.value(0, task)) for task in later])


def forgetting_matrix(
    name: str,
    tasks: Sequence[str],
    records: Sequence[Sequence[Record]],
    evaluations: Sequence[Evaluation],
    suite: Suite,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ForgettingMatrix:
    """`tasks`: the evaluation sets, one a task. `records` and `evaluations`: of step 0, 1, ..."""
    check(suite)
    efficacy = tuple(
        tuple(
            summarise([each for each in of_step if each.set == task], suite, resamples=resamples, seed=seed).aggregates[
                EFFICACY
            ]
            for task in tasks
        )
        for of_step in records
    )
    utility = next(each for each in UTILITIES if each in evaluations[0].aggregates)
    kept = tuple(each.aggregates[utility] for each in evaluations)
    return ForgettingMatrix(name=name, tasks=tuple(tasks), efficacy=efficacy, utility=kept)


def check(suite: Suite) -> None:
    """Raises UserError for a suite that has no forget efficacy or no utility."""
    names = {aggregate.name for aggregate in suite.aggregates}
    if EFFICACY not in names or not names.intersection(UTILITIES):
        raise UserError(
            f"evaluation.suite: {suite.name} has no forget efficacy and utility; set closer_look or another that does"
        )


def _mean_difference(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return fmean(differences) if differences and len(differences) == len(pairs) else None
