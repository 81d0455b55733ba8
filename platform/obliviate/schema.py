"""The parts of a run that are independent of method and data: model, optimiser, cluster, engine.

Imports neither torch, ray nor vllm, so that a config is checked before anything heavy loads.
Units are in the names; where a field has none it is a count.
"""

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator


def _on_a_file_system(path: str) -> str:
    if "://" in path:
        raise ValueError("is locked, appended to or watched, which needs a file system: give a path, not a URL")
    return path


class Arguments(dict[str, Any]):
    """Of a chat template. As hashable as the config that they are in, which nobody changes."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


def _iso(day: Any) -> Any:
    """YAML reads 2026-01-31 as a date."""
    return day.isoformat() if isinstance(day, date) else day


def _a_date(day: str) -> str:
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise ValueError(f"{day!r} is no date; give one as 2026-01-31") from error


TemplateArguments = Annotated[Mapping[str, JsonValue], AfterValidator(Arguments)]
Date = Annotated[str, BeforeValidator(_iso), AfterValidator(_a_date)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's generators take no other
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean, per step
FilePath = Annotated[str, AfterValidator(_on_a_file_system)]  # of what no object store can hold


def later() -> Any:
    """The default None of a key that came later: absent from hashes, so that what was made before it is found."""
    return Field(default=None, exclude_if=lambda value: value is None)


class Spec(BaseModel):
    """Complete, frozen, finite, and without unknown keys: a typo is an error, never a silently ignored option."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PushSpec(Spec):
    """Where a model goes on the Hugging Face hub. Needs `hf auth login`, or HF_TOKEN."""

    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")  # org/name
    private: bool = True
    records: bool = False  # each question and answer that was measured, too
    license: str | None = None  # None: the base model's


class LoraSpec(Spec):
    """Low-rank adapters on all linear layers but the lm_head (defaults of "A Closer Look", arXiv:2410.08109)."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    # Above 0 the result depends on how a step is cut into micro-batches
    dropout: float = Field(default=0.05, ge=0, lt=1)
    merge: bool = True  # write a whole model at the end; False keeps the adapter beside a reference to its base


class GuardrailSpec(Spec):
    """What keeps a model from telling at inference. Nothing is removed from the weights: whoever reaches the model
    without the guardrail, or asks around it, still gets the answer.

    "prompt": an instruction in the system prompt (Thaker et al. 2024, arXiv:2403.03329). "in_context": each question is
    marked with what is to be forgotten, for a model that was trained to heed the marks (`icku`; arXiv:2410.00382).
    """

    type: Literal["prompt", "in_context"]
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)  # names of what not to tell about
    instruction: str | None = None  # of "prompt", with {targets} where their names go; None: the project's own

    @model_validator(mode="after")
    def _instruction_fits(self) -> "GuardrailSpec":
        if self.instruction is not None and (self.type != "prompt" or "{targets}" not in self.instruction):
            raise ValueError(
                f"instruction: {self.instruction!r}: goes with type: prompt, and holds {{targets}} where the names go"
            )
        return self


class EndpointSpec(Spec):
    """A model behind a server that speaks OpenAI's interface. The key is in no config: those lie beside results."""

    base_url: str = Field(pattern="^https?://")  # http://127.0.0.1:8000/v1
    model: str = Field(min_length=1)  # as the server calls it
    api_key_env: str | None = None  # the NAME of the environment variable that holds the key; None: no key
    concurrency: int = Field(default=8, ge=1)  # requests at a time
    retries: int = Field(default=5, ge=0)  # of a request that failed, with growing pauses
    timeout_s: float = Field(default=60.0, gt=0)  # of a request

    @model_validator(mode="after")
    def _no_secrets(self) -> "EndpointSpec":
        """The value is not shown: it may be the key itself."""
        if self.api_key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env: names no environment variable (capitals, digits and _); export the key under a name, and "
                "give that name: configs are written beside results"
            )
        if "@" in urlsplit(self.base_url).netloc:
            raise ValueError("base_url: holds a password, and configs are written beside results; use api_key_env")
        return self


class PriceSpec(Spec):
    """In whatever money `budget` is in."""

    prompt: float = Field(ge=0)  # of a million tokens that are read
    completion: float = Field(ge=0)  # of a million that are written


class HostedSpec(EndpointSpec):
    """A model that is measured from outside: only its server has the weights."""

    requests_per_minute: float | None = Field(default=None, gt=0)  # None: no limit
    price_per_million: PriceSpec | None = None  # tokens
    budget: float | None = Field(default=None, gt=0)  # of one call of the command; None: no limit

    @model_validator(mode="after")
    def _priced(self) -> "HostedSpec":
        if self.budget is not None and self.price_per_million is None:
            raise ValueError(f"budget: {self.budget:g}: nothing has a price; give price_per_million, or budget: null")
        return self


LAYOUT = {
    "chat_template",
    "template_arguments",
    "template_date",
    "system_prompt",
    "control_tokens",
}  # the keys that lay out a question


class ModelSpec(Spec):
    """Where a model comes from and how its texts are laid out."""

    source: str  # Hugging Face id, folder, file.gguf, URL of either, or package:NAME/FILE.gguf of an installed package
    revision: str | None = None
    base: str | None = None  # of an adapter: what it was trained on, where that is elsewhere than its config says
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # master weights and optimiser state are always float32
    # Of the weights that training writes; "source": as the source's files have them, float32 where those are quantised.
    export_dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    lora: LoraSpec | None = None
    dropout: bool = (
        False  # whether training drops what the model's own config says (GPT-2: 0.1); LoRA's is lora.dropout
    )
    chat_template: str | None = None  # None: the tokenizer's own; "plain" (Question/Answer lines); "raw"; or Jinja
    template_arguments: TemplateArguments = Arguments()  # what the template asks for: enable_thinking, date_string, ...
    template_date: Date | None = None  # that a template gets which asks for today's; None: one that never changes
    system_prompt: str | None = None  # None: what the template does by itself
    guardrail: GuardrailSpec | None = None  # at inference; a model under training has none
    # What a text that spells a control token (<|im_end|>) means: those characters, or the token, which ends a turn.
    control_tokens: Literal["text", "control"] = "text"
    # Tokens of prompt and answer together; longer answers are cut at the end
    max_length: int = Field(default=512, ge=8)
    # Where the model is asked, if it is hosted; `source` then names its tokenizer and layout, whose weights are never
    # read. Absent from hashes where there is none.
    endpoint: HostedSpec | None = Field(default=None, exclude_if=lambda endpoint: endpoint is None)

    @property
    def drops(self) -> bool:
        """Whether training draws at random in each micro-batch, so that it depends on how many there are."""
        return self.dropout or (self.lora is not None and self.lora.dropout > 0)

    def at(self, source: str) -> "ModelSpec":
        """The same model, or one that was made of it, laid out alike, at another place (empty: at this one)."""
        return self if source in ("", self.source) else self.model_copy(update={"source": source, "base": None})


class OptimSpec(Spec):
    """AdamW with a linear or constant schedule. Defaults: TOFU single-task of "A Closer Look", section 4."""

    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=5, gt=0)  # passes over the forget set (unlearning) or the training set (fine-tuning)
    batch_size: int = Field(default=32, ge=1)  # items per optimiser step, over all workers and micro-batches
    # Items of a forward pass of one worker; without dropout the result is the same
    micro_batch_size: int = Field(default=4, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    schedule: Literal["linear", "constant"] = "linear"
    # None: one epoch's steps, or 0 where an epoch is a single step
    warmup_steps: int | None = Field(default=None, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    # None: every two minutes, or 20 times what saving takes
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False


def _counted_from_0(layer: int | str) -> int | str:
    if isinstance(layer, int) and layer < 0:
        raise ValueError(f"is {layer}; layers are counted from 0")
    return layer


# A decoder layer's number, or the name of any module: "model.layers.7".
Layer = Annotated[int | str, AfterValidator(_counted_from_0)]


class SharpnessSpec(Spec):
    """Sharpness-aware minimisation of the forget objective (arXiv:2502.05374)."""

    rho: float = Field(default=0.01, gt=0)  # how far the weights are moved, in the norm over all of them


class LatentSpec(Spec):
    """Latent adversarial training of the forget objective (arXiv:2403.05030): hidden states are moved to where the
    forget set is known best, and the objective is taken there."""

    layers: tuple[Layer, ...] = Field(min_length=1)  # whose outputs are moved
    epsilon: float = Field(default=0.1, gt=0)  # at most, in each dimension
    steps: int = Field(default=8, ge=1)  # of projected gradient descent, each a pass over the forget texts


class StabilitySpec(Spec):
    """Forgetting at several points of the weights' neighbourhood at once (after StableUN, arXiv:2509.20230)."""

    rho: float = Field(default=0.01, gt=0)  # how far off the second point is, in the norm over all weights
    feedback: float = Field(default=1.0, gt=0)  # weight of the forget gradient there


class QuantisationSpec(Spec):
    """The forget objective of the weights as a deployment in few bits has them (after DurableUn, arXiv:2605.02196)."""

    to: Literal["int4_g128", "int8"] = "int4_g128"  # formats of obliviate.quantise in which each output has own scales


class TamperingSpec(Spec):
    """The forget objective along attacks that fine-tune the model on forget rows (TAR; arXiv:2408.00761). Defaults:
    the published script's for biosecurity."""

    steps: int = Field(default=64, ge=1)  # of AdamW, that an attack takes
    every: int = Field(default=4, ge=1)  # after how many of them the objective is looked at
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(2e-6, 2e-5, 4e-5), min_length=1)
    batch_size: int = Field(default=4, ge=1)  # forget rows of a step of an attack, over all workers
    growth: float = Field(default=0.0625, ge=0)  # by which the weight of a point grows with each step: e^growth times

    @model_validator(mode="after")
    def _looked_at_last(self) -> "TamperingSpec":
        if self.steps % self.every:
            raise ValueError(f"every: {self.every}: does not divide steps: {self.steps}; the last one is looked at")
        return self


class LayersSpec(Spec):
    """Layered unlearning (arXiv:2505.09500): one fold of the forget set after another, those to come kept."""

    folds: int = Field(default=3, ge=2)


class SanitisationSpec(Spec):
    """What the retain set's inputs see of a finished update, taken out of it (after SAGE, arXiv:2606.18309)."""

    energy: float = Field(default=0.95, gt=0, le=1)  # share of the retain inputs' squared length that counts
    strength: float = Field(default=1.0, gt=0)  # a direction of mean energy keeps 1 / (1 + strength) of the change
    texts: int = Field(default=256, ge=1)  # retain rows that are read


class UndoSpec(Spec):
    """Unlearn, noise, distil on outputs (UNDO; arXiv:2506.06278): a copy of the unlearned model that has lost part of
    its weights is taught the unlearned model's outputs."""

    share: float = Field(default=0.25, gt=0, le=1)  # of every weight that is lost; published: 0.25 on WMDP, up to 0.8
    noise: float = Field(default=0.1, ge=0)  # times Xavier's in its place; published: 0.1, and 0 on WMDP
    texts: str = Field(default="retain", min_length=1)  # to teach by: a data file, or "retain", the retain set
    optim: OptimSpec = OptimSpec(learning_rate=2e-5)


class StopSpec(Spec):
    """When nothing is left to forget (arXiv:2606.02920): training ends after an epoch at whose end the true tokens'
    margins over the likeliest others are this small."""

    margin: float = Field(default=0.1, ge=0)  # nats, at most, on average over
    share: float = Field(default=0.9, gt=0, le=1)  # of the forget set's answer tokens, where they are smallest


class ProjectionSpec(Spec):
    """Projected-gradient unlearning (arXiv:2312.04095): forget only where the retain set's inputs are not."""

    energy: float = Field(default=0.95, gt=0, le=1)  # share of the retain inputs' squared length that is kept as it is
    texts: int = Field(default=256, ge=1)  # retain rows that they are found from


class RectificationSpec(Spec):
    """Gradient rectified unlearning (arXiv:2503.09117): the forget gradient, less what of it runs against the
    regularizers'."""

    # Of a step's own gradient in the regularizers' running mean; 1: no memory
    share: float = Field(default=0.8, gt=0, le=1)


class ClusterSpec(Spec):
    """What Ray gives to training. More workers change the speed and not the result; with dropout that holds where they
    cut a step into as many micro-batches."""

    address: str | None = None  # None: RAY_ADDRESS or a cluster already running here, else a new local one
    workers: int = Field(default=1, ge=1)
    cpus_per_worker: float | None = Field(default=None, gt=0)  # None: an equal share of the machine's cores
    gpus_per_worker: float | None = Field(default=None, ge=0)  # None: 1 where the cluster has GPUs, else 0
    max_failures: int = Field(default=2, ge=0)  # restarts from the last checkpoint before the run fails


class EngineSpec(Spec):
    """How texts are generated and scored. "auto" is vLLM where it is installed, else Hugging Face."""

    type: Literal["auto", "vllm", "hf"] = "auto"
    replicas: int = Field(default=1, ge=1)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    cpus_per_replica: float | None = Field(default=None, gt=0)  # None: an equal share of the machine's cores
    # None: tensor_parallel where the cluster has GPUs, else 0
    gpus_per_replica: float | None = Field(default=None, ge=0)
    tensor_parallel: int = Field(default=1, ge=1)
    batch_tokens: int = Field(default=4096, ge=64)  # tokens per forward pass of the Hugging Face engine
    chunk_size: int = Field(default=256, ge=1)  # texts handed to a replica at a time: what is lost when it dies
    max_model_len: int = Field(default=1024, ge=16)  # tokens
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)


class GenerationSpec(Spec):
    """Greedy by default. Published work counts differently: max_length includes the prompt ("A Closer Look": 200)."""

    max_new_tokens: int | None = Field(default=128, ge=1)
    max_length: int | None = Field(default=None, ge=2)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    samples: int = Field(default=1, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_limit(self) -> "GenerationSpec":
        if (self.max_new_tokens is None) == (self.max_length is None):
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} (excludes the prompt) and max_length={self.max_length} "
                "(includes it): give one of them, and null for the other"
            )
        return self
