"""The serving engine on vLLM: continuous batching, many adapters at once. Its core runs in a process of its own."""

import json
import multiprocessing
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from obliviate.errors import UserError
from obliviate.inference.limits import require_one_rotation
from obliviate.inference.vllm import FAILURES, local_folder
from obliviate.models import load_config, load_tokenizer, stop_ids
from obliviate.schema import ModelSpec
from obliviate_serve.engine import Delta, Event, Finish, Prompted, Sampling, Token
from obliviate_serve.errors import ApiError, EngineDiedError
from obliviate_serve.spec import ServingEngineSpec

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

# In a request's extra arguments
ENTROPY_KEY = "obliviate_entropy"  # the name under which its entropies are asked for
RETOLD_KEY = "obliviate_retold"  # the tokens that it is to write, whatever the model would choose; none: its own choice


class VLLMServingEngine:
    """`adapters`: name -> folder of a LoRA adapter. Raises UserError where vLLM cannot start.

    The model's own generation defaults are not applied.
    """

    def __init__(self, model: ModelSpec, spec: ServingEngineSpec, adapters: Mapping[str, str]) -> None:
        self.tokenizer = load_tokenizer(model)
        self._stop_ids = sorted(stop_ids(model, self.tokenizer))
        require_one_rotation(load_config(model), model, "engine.max_model_len", spec.max_model_len)
        try:
            self._start(local_folder(model), model.revision, spec, adapters)
        except UserError:
            raise
        except (*FAILURES, ImportError) as error:
            cause = str(error).strip().rpartition("\n")[2] or type(error).__name__
            raise UserError(f"engine.type=vllm: vLLM could not start {model.source}: {cause}; try type=hf") from error

    def _start(self, folder: str, revision: str | None, spec: ServingEngineSpec, adapters: Mapping[str, str]) -> None:
        from transformers import AutoConfig
        from vllm import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        config = AutoConfig.from_pretrained(folder, revision=revision)
        positions = getattr(config.get_text_config(), "max_position_embeddings", spec.max_model_len)
        self._context = min(spec.max_model_len, positions)
        arguments = AsyncEngineArgs(
            folder,
            revision=revision,
            generation_config="vllm",
            dtype=spec.dtype,
            max_model_len=self._context,
            max_num_seqs=spec.max_requests,
            tensor_parallel_size=spec.tensor_parallel,
            distributed_executor_backend="mp" if spec.tensor_parallel > 1 else None,
            gpu_memory_utilization=spec.gpu_memory_utilization,
            enforce_eager=current_platform.is_cpu(),
            enable_prefix_caching=True,
            disable_log_stats=True,
            logits_processors=["obliviate_serve.entropy:EntropyMeter"],
            worker_extension_cls="obliviate_serve.entropy.EntropyReader",
            **_lora(adapters),
        )
        self._llm = AsyncLLM.from_engine_args(arguments)
        self._watcher = _kill_with_this_process()
        self._lora = {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(adapters.items(), 1)}

    @property
    def context(self) -> int:
        return self._context

    async def stream(
        self, prompt_ids: tuple[int, ...], sampling: Sampling, adapter: str | None
    ) -> AsyncIterator[Event]:
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        request = uuid4().hex
        retold: tuple[int, ...] = ()
        if sampling.echo and sampling.entropy:
            assert sampling.max_tokens == 0 < sampling.echo_from
            prompt_ids, retold = prompt_ids[: sampling.echo_from], prompt_ids[sampling.echo_from :]
        outputs = self._llm.generate(
            TokensPrompt(prompt_token_ids=list(prompt_ids)),
            self._parameters(request, sampling, retold),
            request,
            lora_request=self._lora.get(adapter or ""),
        )
        try:
            if retold:
                async for output in outputs:  # the last is whole
                    yield await self._retold(request, output, len(prompt_ids), sampling)
                yield Delta(0, "", 0, (), "length")
                return
            first = True
            lengths: Counter[int] = Counter()
            # Greedy continuations are all the same: vLLM makes one, and it is told for each.
            copies = range(sampling.n if sampling.temperature == 0 else 1)
            async for output in outputs:
                if first:
                    yield self._prompted(output, prompt_ids, sampling)
                    first = False
                entropies = await self._entropies(request) if sampling.entropy else {}
                for found in output.outputs:
                    delta = self._delta(found, sampling, entropies, lengths[found.index])
                    lengths[found.index] += len(found.token_ids)
                    for copy in copies:
                        yield delta._replace(choice=found.index + copy)
        except EngineDeadError as error:
            raise EngineDiedError("the model's engine died") from error
        except VLLMValidationError as error:  # of a schema; all else was looked at before
            raise ApiError(400, str(error).partition("\n")[0], param="response_format") from error

    async def _retold(self, request: str, output: "RequestOutput", before: int, sampling: Sampling) -> Prompted:
        """A prompt's end as an answer that the model had no choice in. vLLM scores prompts by itself, but of the
        distributions it tells the most likely tokens only, and no logits processor sees them."""
        (found,) = output.outputs
        delta = self._delta(found, replace(sampling, max_tokens=None), await self._entropies(request), 0)
        text = self.tokenizer.decode(list(found.token_ids), skip_special_tokens=True)
        return Prompted(before + len(found.token_ids), text, delta.tokens)

    def _parameters(self, request: str, sampling: Sampling, retold: tuple[int, ...]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        schema = sampling.json_schema
        assert not sampling.entropy or sampling.n == 1, "entropies are kept by request, not by continuation"
        return SamplingParams(
            n=sampling.n if sampling.temperature > 0 else 1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            # vLLM always generates; _delta leaves it out
            max_tokens=len(retold) or max(1, sampling.max_tokens or 0),
            stop=list(sampling.stop),
            ignore_eos=True,  # `_stop_ids` holds it, and nothing that the model's files may add
            stop_token_ids=[] if sampling.ignore_eos or retold else self._stop_ids,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.logprobs if sampling.echo and not retold else None,
            skip_reading_prefix_cache=sampling.alone,  # how much of a prompt is computed anew moves the last digits too
            extra_args={ENTROPY_KEY: request, RETOLD_KEY: list(retold)} if sampling.entropy else None,
            output_kind=RequestOutputKind.DELTA if sampling.stream else RequestOutputKind.FINAL_ONLY,
        )

    def _prompted(self, output: "RequestOutput", prompt_ids: tuple[int, ...], sampling: Sampling) -> Prompted:
        if not sampling.echo:
            return Prompted(len(prompt_ids))
        assert sampling.echo_from == 0, "told from further on only with entropies"
        text = self.tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
        tokens: tuple[Token, ...] = ()
        if output.prompt_logprobs:
            tokens = tuple(
                Token(self._text(token), None, None, ())
                if known is None
                else self._token(token, known, sampling.logprobs or 0, None)
                for token, known in zip(prompt_ids, output.prompt_logprobs, strict=True)
            )
        return Prompted(len(prompt_ids), text, tokens)

    def _delta(self, found: Any, sampling: Sampling, entropies: Mapping[int, float], length: int) -> Delta:
        if sampling.max_tokens == 0:
            return Delta(found.index, "", 0, (), "length")
        tokens: tuple[Token, ...] = ()
        if found.logprobs is not None:
            tokens = tuple(
                self._token(token, known, sampling.logprobs or 0, entropies.get(length + i))
                for i, (token, known) in enumerate(zip(found.token_ids, found.logprobs, strict=True))
            )
        finish: Finish | None = None
        if found.finish_reason is not None:
            finish = "length" if found.finish_reason == "length" else "stop"
        return Delta(found.index, found.text, len(found.token_ids), tokens, finish)

    def _token(self, token: int, known: Mapping[int, Any], alternatives: int, entropy: float | None) -> Token:
        """`known`: token id -> its log-probability, of the token itself and of the most likely ones."""
        logp = known[token].logprob
        likely = sorted(known.items(), key=lambda each: -each[1].logprob)[:alternatives]
        shown = [(self._text(id_), each.logprob) for id_, each in likely if each.logprob == each.logprob]
        rank: int | None = known[token].rank
        return Token(self._text(token), logp if logp == logp else None, entropy, tuple(shown), rank or None)

    def _text(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text

    async def _entropies(self, request: str) -> Mapping[int, float]:
        """Place in the answer -> entropy, as far as the answer has come. The first worker speaks for all."""
        found: Mapping[int, float] = (await self._llm.collective_rpc("entropies", args=(request,)))[0]
        return found

    @property
    def guides(self) -> bool:
        return True

    @property
    def dead(self) -> bool:
        errored: bool = self._llm.errored
        return errored

    def close(self) -> None:
        self._llm.shutdown()
        self._watcher.kill()


def _kill_with_this_process() -> "subprocess.Popen[bytes]":
    """vLLM's processes would outlive this one if it were killed, and keep the model's memory.

    The watcher reads from a pipe that only this process holds open: it ends with the process, whatever ends it.
    """
    children = [str(child.pid) for child in multiprocessing.active_children()]
    command = ["sh", "-c", 'read -r _; kill -9 "$@"', "sh", *children]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _lora(adapters: Mapping[str, str]) -> dict[str, Any]:
    """vLLM's settings for these adapters: ranks are powers of two from 8 on, and only what they adapt is wrapped.

    A wrapped lm_head would score prompts with the adapters of other requests, or crash. Raises UserError for adapters
    of the lm_head, and of experts that are fused in one parameter.
    """
    if not adapters:
        return {}
    files = {name: Path(folder) / "adapter_config.json" for name, folder in adapters.items()}
    configs = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    for name, config in configs.items():
        if isinstance(config["target_modules"], str) or "lm_head" in config["target_modules"]:
            raise UserError(
                f"models.{name}: target_modules={config['target_modules']!r}: vLLM needs the adapted layers as a list, "
                "without lm_head; set engine.type=hf"
            )
        if config.get("target_parameters"):
            raise UserError(
                f"models.{name}: {adapters[name]}: changes a mixture's experts, which vLLM does not do for every model "
                "and device; train with model.lora.merge=true and serve the whole model, or set engine.type=hf"
            )
    rank: int = max(config["r"] for config in configs.values())
    return {
        "enable_lora": True,
        # On CPUs vLLM looks up the adapter of a request that has none in its last slot, which must therefore be empty.
        "max_loras": len(adapters) + 1,
        "max_lora_rank": 1 << max(3, (rank - 1).bit_length()),
        "lora_target_modules": sorted({each for config in configs.values() for each in config["target_modules"]}),
    }
