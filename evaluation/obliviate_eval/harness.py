"""General ability: tasks of the lm-evaluation-harness (Gao et al.), run on our engines.

The harness sees a language model that scores and generates; all of a task's requests go to the engine in one call,
which batches them by its own sizes (engine.batch_tokens, engine.chunk_size) over its replicas.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import fsum, isfinite
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]
from lm_eval.evaluator import simple_evaluate  # type: ignore[import-untyped]
from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # type: ignore[import-untyped]

from obliviate.data.text import Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate.inference.engine import Engine
from obliviate.schema import GenerationSpec
from obliviate_eval.spec import HarnessSpec
from obliviate_eval.statistics import NORMAL_95, Figure

log = logging.getLogger(__name__)

MAX_GENERATED = 256  # tokens, where a task does not say: the harness's own default
FIRST_ROUND = 32  # tokens
Tasks = dict[str, dict[str, Figure]]  # task or group -> metric -> figure


class EngineLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """An Engine as the harness wants one. `max_length`: tokens of context and continuation together."""

    def __init__(self, engine: Engine, encoder: TextEncoder, max_length: int) -> None:
        super().__init__()
        self._engine, self._encoder, self._max_length = engine, encoder, max_length
        self.tokenizer = encoder.tokenizer
        self.cut = 0  # prompts that lost their beginning

    @property
    def eot_token_id(self) -> int:
        end: int = self.tokenizer.eos_token_id
        return end

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text follows."""
        begin: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._encoder.render(chat_history, begun=not add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """None: as the tokenizer does by itself, but for a text that brings its own beginning (a rendered chat)."""
        begin = self.tokenizer.bos_token
        if add_special_tokens is None and begin is not None and string.startswith(begin):
            add_special_tokens = False
        keywords = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, **keywords).input_ids)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(sum of the continuation's log-probabilities, whether it is what greedy generation would say)."""
        texts = [self._encoded(context, continuation) for _, context, continuation in requests]
        distinct = list(dict.fromkeys(texts))
        scored = dict(zip(distinct, self._engine.score(distinct), strict=True))
        if any(text.answer_ids and not found.logp for text, found in scored.items()):
            raise UserError(
                "evaluation.harness: the server gives no log-probabilities of the tasks' answers; take tasks that "
                "generate them (gsm8k), or leave the harness out"
            )
        return [(fsum(scored[text].logp), all(scored[text].greedy)) for text in texts]

    def _encoded(self, context: Sequence[int], continuation: Sequence[int]) -> Encoded:
        """A context that is too long loses its beginning."""
        if len(continuation) >= self._max_length:
            raise UserError(
                f"engine.max_model_len={self._max_length}: a task's continuation of {len(continuation)} tokens does "
                "not fit; raise engine.max_model_len (up to what the model has positions for)"
            )
        self.cut += len(context) + len(continuation) > self._max_length
        ids = (*context, *continuation)[-self._max_length :]
        return Encoded(ids, len(ids) - len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, in windows that do not overlap; each window follows one token of the one before."""
        windows = [
            (place, None, *make_disjoint_window(window))
            for place, request in enumerate(requests)
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._max_length - 1,
                context_len=1,
            )
        ]
        found = self._loglikelihood_tokens([window[1:] for window in windows])
        parts: list[list[float]] = [[] for _ in requests]
        for (place, *_), (logp, _) in zip(windows, found, strict=True):
            parts[place].append(logp)
        return [fsum(part) for part in parts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Requests with the same settings (all of a task's) go together."""
        together: dict[tuple[str, int], list[int]] = {}
        seen: Counter[tuple[str, str]] = Counter()
        for place, request in enumerate(requests):
            context, settings = request.args[0], repr(sorted(request.args[1].items()))
            together.setdefault((settings, seen[settings, context]), []).append(place)
            seen[settings, context] += 1
        found: dict[int, str] = {}
        for (_, repeat), places in together.items():  # the repeats of a sampled request differ by their seed
            contexts = [requests[place].args[0] for place in places]
            found |= zip(places, self._generate(contexts, requests[places[0]].args[1], repeat), strict=True)
        return [found[place] for place in range(len(requests))]

    def _generate(self, contexts: Sequence[str], settings: Mapping[str, Any], seed: int) -> list[str]:
        """In rounds, each twice as long as the one before: engines end a text at a token, `until` ends it at a string.

        What a round has said is the next one's prompt, which vLLM finds in its prefix cache.
        """
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        limit = min(int(settings.get("max_gen_toks", MAX_GENERATED)), self._max_length - 1)
        sampled = bool(settings.get("do_sample")) or float(settings.get("temperature") or 0) > 0
        temperature = float(settings.get("temperature") or 1.0) if sampled else 0.0
        top_p = float(settings.get("top_p") or 1.0)
        whole = [self.tok_encode(context) for context in contexts]
        prompts = [tuple(ids[-(self._max_length - limit) :]) for ids in whole]
        self.cut += sum(len(ids) > self._max_length - limit for ids in whole)
        said: list[tuple[int, ...]] = [()] * len(prompts)
        texts = [""] * len(prompts)
        going, length = list(range(len(prompts))), 0
        while going and length < limit:
            budget = min(max(FIRST_ROUND, length), limit - length)
            sampling = GenerationSpec(max_new_tokens=budget, temperature=temperature, top_p=top_p, seed=seed)
            generated = self._engine.generate([prompts[i] + said[i] for i in going], sampling)
            length += budget
            cut_off = []
            for i, (generation, *_) in zip(going, generated, strict=True):
                said[i] += generation.token_ids
                texts[i] = self.tokenizer.decode(list(said[i]), skip_special_tokens=True)
                if not generation.finished and not any(stop in texts[i] for stop in stops):
                    cut_off.append(i)
            going = cut_off
        heard = [self._encoder.hear(text, ids).answer or "" for text, ids in zip(texts, said, strict=True)]
        return [_before(text, stops) for text in heard]


def run_tasks(engine: Engine, encoder: TextEncoder, max_length: int, spec: HarnessSpec) -> Tasks:
    """Raises UserError for a task that the harness does not know, or whose data cannot be read."""
    own = [task for task in spec.tasks if Path(task).is_file()]
    manager = TaskManager(include_defaults=len(own) < len(spec.tasks))  # to list those that it knows takes seconds
    for task in spec.tasks:
        if task not in own and task not in manager.all_tasks:
            near = get_close_matches(task, manager.all_tasks, n=3)
            fix = f"did you mean {' or '.join(near)}?" if near else "give a task's name or a YAML file"
            raise UserError(f"evaluation.harness.tasks: {task}: the harness has no such task; {fix}")
    model = EngineLM(engine, encoder, max_length)
    try:
        found = simple_evaluate(
            model=model,
            tasks=list(spec.tasks),
            num_fewshot=spec.num_fewshot,
            limit=spec.limit,
            apply_chat_template=spec.chat_template,
            task_manager=manager,
        )
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"evaluation.harness.tasks: {', '.join(spec.tasks)}: the data cannot be read ({reason}); "
            "give tasks whose data are at hand"
        ) from error
    if model.cut:
        log.warning(
            "%d of the tasks' prompts exceed engine.max_model_len=%d and lost their beginning, examples first; "
            "raise it, or lower evaluation.harness.num_fewshot",
            model.cut,
            max_length,
        )
    return figures(found)


def figures(found: Mapping[str, Any]) -> Tasks:
    """Of the harness's results: each metric with the normal interval of its standard error.

    A task with items that the model gave no finite number for has no value: the harness would count them as answered.
    """
    unscored = {task: _unscorable(samples) for task, samples in found["samples"].items()}
    items = {task: counts["effective"] for task, counts in found["n-samples"].items()}
    tasks: Tasks = {}
    for name, values in found["results"].items():
        leaves = _leaves(name, found.get("group_subtasks", {}))
        total = sum(items.get(leaf, 0) for leaf in leaves)
        missing = sum(unscored.get(leaf, 0) for leaf in leaves)
        tasks[name] = {
            key.removesuffix(",none"): _figure(value, values.get(_stderr_key(key)), total, missing)
            for key, value in values.items()
            if "," in key and "_stderr," not in key and isinstance(value, int | float)
        }
    return {name: row for name, row in tasks.items() if row}


def _figure(value: float, stderr: Any, total: int, unscored: int) -> Figure:
    if unscored or not isfinite(value):
        return Figure(value=None, low=None, high=None, scored=total - unscored, unscored=unscored)
    half = NORMAL_95 * stderr if isinstance(stderr, int | float) and isfinite(stderr) else None
    low, high = (None, None) if half is None else (value - half, value + half)
    return Figure(value=float(value), low=low, high=high, scored=total, unscored=0)


def _stderr_key(key: str) -> str:
    metric, _, filter_ = key.partition(",")
    return f"{metric}_stderr,{filter_}"


def _leaves(name: str, subtasks: Mapping[str, Sequence[str]]) -> list[str]:
    below = subtasks.get(name)
    return [leaf for each in below for leaf in _leaves(each, subtasks)] if below else [name]


def _unscorable(samples: Sequence[Mapping[str, Any]]) -> int:
    """Items with a log-likelihood that is no finite number. An item appears once for each of the task's filters."""
    numbers = {
        sample["doc_id"]: [value for response in sample["resps"] for value in _numbers(response)] for sample in samples
    }
    return sum(not all(map(isfinite, values)) for values in numbers.values())


def _numbers(response: Any) -> list[float]:
    if isinstance(response, float):
        return [response]
    return [each for part in response for each in _numbers(part)] if isinstance(response, list | tuple) else []


def _before(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stops."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
