"""Evaluation logs of TOFU's own code (`eval_log_aggregated.json`) as records, to be scored like any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.importers.logs import read_json
from obliviate_eval.records import Probe, Record, ScoredAnswer

_SETS = {  # the log's name of a set -> ours
    "eval_log.json": ("retain", Role.RETAIN),
    "eval_real_author_wo_options.json": ("real_authors", Role.REAL_AUTHORS),
    "eval_real_world_wo_options.json": ("world_facts", Role.WORLD_FACTS),
    "eval_log_forget.json": ("forget", Role.FORGET),
}


def read_tofu_log(path: Path) -> list[Record]:
    """The records of every set that the log holds. Raises UserError where it is no such log.

    A log keeps an answer's mean loss and number of tokens, not each token's: the tokens all get the mean, which is
    what every metric of probability uses; the texts of paraphrased and perturbed answers and the tokens of the
    generations are not in it (empty, None). Generations keep the "Answer: " that the prompt left to the model.
    """
    log = read_json(path, "give an eval_log_aggregated.json of TOFU")
    known = [name for name in _SETS if name in log] if isinstance(log, dict) else []
    if not known:
        raise UserError(f"{path}: no evaluation log of TOFU; its keys should be among {', '.join(_SETS)}")
    try:
        return [_record(name, log[name], item) for name in known for item in log[name]["generated_text"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: an entry of TOFU's log is missing or of another form: {error!r}") from error


def _record(name: str, log: Mapping[str, Any], item: str) -> Record:
    prompt, generation, truth = log["generated_text"][item]
    perturbed = zip(log["average_perturb_loss"][item], log["num_token_perturb"][item], strict=True)
    set_name, role = _SETS[name]
    return Record(
        set=set_name,
        role=role,
        index=int(item),
        question=prompt.strip(),
        reference=truth,
        full_reference=truth,
        generation=generation,
        answers={
            Probe.ANSWER: (_answer(log["avg_gt_loss"][item], log["num_token_gt"][item], truth),),
            Probe.PARAPHRASED: (_answer(log["avg_paraphrased_loss"][item], log["num_token_paraphrased"][item]),),
            Probe.PERTURBED: tuple(_answer(loss, tokens) for loss, tokens in perturbed),
        },
    )


def _answer(mean_loss: float, tokens: int, text: str = "") -> ScoredAnswer:
    """`mean_loss` in nats per token."""
    return ScoredAnswer(text, (-mean_loss,) * tokens)
