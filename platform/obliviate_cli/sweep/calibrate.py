"""Methods at equal utility: each one's chosen model is drawn back towards the original until it is useful enough.

As in "Towards Effective Evaluations and Comparisons for LLM Unlearning Methods" (arXiv:2406.09179, unlearning with
control): what one method forgets at 60 % of the original's utility does not compare with what another forgets at 95 %,
so the weights are mixed with the original's until both keep the same share of it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.arithmetic import interpolate
from obliviate.runs import Run
from obliviate_cli.measure import Measure
from obliviate_cli.stages import MODEL, like, original_weights
from obliviate_cli.sweep.front import Pair
from obliviate_cli.sweep.ranking import Ranked, choose
from obliviate_cli.sweep.records import TrialRecord
from obliviate_cli.sweep.result import Result
from obliviate_cli.sweep.trial import QUIET, Shared, objectives
from obliviate_eval.summary import METRICS_FILE, Evaluation

HALVINGS = 5  # the share is found to 1/32; each costs one evaluation
SHARES = "shares"  # folder of the models tried


@dataclass(frozen=True)
class Calibrated:
    """A trial's model at `share` of the way from the original (0) to what the trial made of it (1)."""

    trial: str
    method: str
    share: float
    forget: float
    utility: float
    model: str  # folder


def calibrate(result: Result, shared: Shared, console: Console) -> tuple[Calibrated, ...]:
    """One for each method: of the configuration that the rule takes among the method's own, the first seed's trial."""
    config = shared.config
    needed = config.calibrate_to * result.original[1]
    measure = Measure(
        shared.corpus, shared.evaluation, config.cluster.address, Path(config.runs), QUIET, config.measures_here,
        wait=True,
    )  # fmt: skip
    found = []
    for method in dict.fromkeys(each.point.method for each in result.ranked if each.complete):
        chosen = _of_method(result, method)
        found.append(_calibrate(chosen.trials[0], needed, result.original, shared, measure))
        console.print(
            f"calibrate {method}: share {found[-1].share:.3f}, forget {found[-1].forget:.3f}, "
            f"utility {found[-1].utility:.3f} (needed {needed:.3f})"
        )
    return tuple(found)


def _of_method(result: Result, method: str) -> Ranked:
    """What the rule takes among the method's configurations; where none meets it, the most useful one."""
    own = [each for each in result.ranked if each.point.method == method and each.complete]
    return choose(own, result.config.choose, result.original[1]) or max(own, key=lambda each: each.utility.mean)


def _calibrate(record: TrialRecord, needed: float, original: Pair, shared: Shared, measure: Measure) -> Calibrated:
    assert record.run is not None
    unlearned = storage.fetch(storage.local(record.run) / MODEL)
    source = original_weights(shared.target, shared.config.runs)
    figures = shared.config.objectives.model_dump()
    config = {"trial": record.id, "needed": needed, "evaluation": record.evaluation, "objectives": figures}
    models = {"original": storage.name(source), "unlearned": storage.name(unlearned)}
    run = Run.open(Path(shared.config.runs), "calibrate", record.id, config, models)
    with run.locked(wait=True):  # two looks at one sweep may want it at once
        if run.done:
            return Calibrated(**run.summary)
        return _search(record, needed, original, shared, measure, run, source, unlearned)


def _search(
    record: TrialRecord,
    needed: float,
    original: Pair,
    shared: Shared,
    measure: Measure,
    run: Run,
    source: Path,
    unlearned: Path,
) -> Calibrated:
    def at(share: float) -> Pair:
        folder = run.directory / SHARES / f"{share:.6f}"
        if not storage.fetch(folder).exists():
            interpolate(source, unlearned, share, folder)
        evaluated = measure(f"{record.id} at {share:.3f}", like(shared.target, folder), shared.retain)
        return objectives(Evaluation.read(evaluated / METRICS_FILE), shared.config)

    assert record.forget is not None
    assert record.utility is not None
    share, (forget, utility) = largest_share(at, needed, original, (record.forget, record.utility))
    interpolate(source, unlearned, share, run.directory / MODEL)
    storage.remove(run.directory / SHARES)
    found = Calibrated(record.id, record.method, share, forget, utility, storage.name(run.directory / MODEL))
    run.finish(**asdict(found))
    return found


def largest_share(at: Callable[[float], Pair], needed: float, original: Pair, unlearned: Pair) -> tuple[float, Pair]:
    """The largest share found whose utility is at least `needed`, by halving, and its figures.

    Assumes that utility falls along the way; where it does not, the share found still keeps what is needed.
    """
    if unlearned[1] >= needed:
        return 1.0, unlearned
    low, high, best = 0.0, 1.0, original
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pair = at(middle)
        if pair[1] >= needed:
            low, best = middle, pair
        else:
            high = middle
    return low, best
