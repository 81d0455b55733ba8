"""The config of a server: which models, under which names, and what a client may do. Imports neither Ray nor torch."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from obliviate.config import RunSpec
from obliviate.data import DataSpec
from obliviate.schema import Arguments, Date, FilePath, GuardrailSpec, ModelSpec, Spec, TemplateArguments

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}$"  # of a model or an alias
ModelName = Annotated[str, Field(pattern=NAME)]


# What models share with others: their base, or all that are loaded on demand. Given to one of them it would be ignored.
OF_THE_BASE = (
    "revision", "chat_template", "template_arguments", "template_date", "system_prompt", "guardrail",
    "on_demand", "replicas", "max_replicas", "target_requests", "engine",
)  # fmt: skip
OF_ALL_REPLICAS = ("replicas", "max_replicas", "target_requests")
OF_ALL_ENGINES = ("max_requests", "cpus_per_replica", "gpus_per_replica", "tensor_parallel", "batch_invariant")


class ServingEngineSpec(Spec):
    """How a model is run. "auto" is vLLM where it is installed for the device, else Hugging Face."""

    type: Literal["auto", "vllm", "hf"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_model_len: int = Field(default=1024, ge=16)  # tokens of prompt and answer together
    max_requests: int = Field(default=64, ge=1)  # answered at once by one replica; more wait
    cpus_per_replica: float = Field(default=1.0, gt=0)
    # None: tensor_parallel where the cluster has GPUs, else 0
    gpus_per_replica: float | None = Field(default=None, ge=0)
    tensor_parallel: int = Field(default=1, ge=1)
    batch_invariant: bool = False  # an answer's figures don't depend on what else is in the batch; slower
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)


class ServedModelSpec(Spec):
    """A model, or an adapter of another one. Adapters share their base's replicas."""

    source: str  # Hugging Face id, local folder, file.gguf, or package:NAME/FILE.gguf; of an adapter its folder
    revision: str | None = None
    chat_template: str | None = None  # None: the tokenizer's own; "plain" (Question/Answer lines); or a Jinja file
    template_arguments: TemplateArguments = Arguments()  # what the template asks for: enable_thinking, date_string, ...
    template_date: Date | None = None  # that a template gets which asks for today's; None: one that never changes
    system_prompt: str | None = None
    guardrail: GuardrailSpec | None = None  # what the model is kept from telling; its weights still hold it
    adapter_of: str | None = None  # name of the base model
    on_demand: bool = False  # loaded when it is asked, and evicted for another
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)  # more than replicas: grows with the requests under way
    target_requests: int = Field(default=16, ge=1)  # under way at one replica before another is started
    engine: ServingEngineSpec | None = None  # None: the engine of the whole config

    @property
    def model(self) -> ModelSpec:
        return ModelSpec(
            source=self.source,
            revision=self.revision,
            chat_template=self.chat_template,
            template_arguments=self.template_arguments,
            template_date=self.template_date,
            system_prompt=self.system_prompt,
            guardrail=self.guardrail,
        )


class OnDemandSpec(Spec):
    """The replicas that load models when they are asked for, and evict the one unused for longest."""

    # 0: nothing is loaded on demand, and aliases stand for models of the config only
    replicas: int = Field(default=1, ge=0)
    models_per_replica: int = Field(default=1, ge=1)


class HttpSpec(Spec):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    allowed_hosts: tuple[str, ...] | None = None  # names in the Host header; None: this machine's own on loopback

    @property
    def loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str] | None:
        """None: any. On loopback a foreign name would be a web page that rebinds its name to this machine."""
        if self.allowed_hosts is not None:
            return None if "*" in self.allowed_hosts else frozenset(self.allowed_hosts)
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host}) if self.loopback else None


class LimitsSpec(Spec):
    prompt_tokens: int = Field(default=8192, ge=1)
    new_tokens: int = Field(default=2048, ge=1)  # of one answer
    answer_tokens: int = Field(default=300_000, ge=1)  # of one request's whole answer, each alternative counted too
    requests_per_token: int = Field(default=64, ge=1)  # at once; without a token file, of each client address
    queued_requests: int = Field(default=128, ge=1)  # waiting for a replica, of each model
    connections: int = Field(default=2048, ge=1)  # open at once
    head_bytes: int = Field(default=65_536, ge=1024)  # a request's line and headers
    head_s: float = Field(default=10.0, gt=0)  # to send them
    body_bytes: int = Field(default=1_000_000, ge=1024)
    body_s: float = Field(default=10.0, gt=0)  # to send the request's body
    start_s: float = Field(default=60.0, gt=0)  # until a model begins to answer, a killed replica's restart included
    compare_jobs: int = Field(default=4, ge=1)  # running at once
    compare_tokens: int = Field(default=1_000_000, ge=1)  # of answers and alternatives in one comparison, 0.6 kB each
    drain_s: float = Field(default=30.0, ge=0)  # that requests under way are given when the server stops


class AuditSpec(Spec):
    """Who asked what. `prompts`: SHA-256 of each text; hashes of short texts can be guessed, so guard the file."""

    file: FilePath | None = None
    prompts: Literal["hash", "text", "none"] = "hash"


class ServeRun(RunSpec):
    models: dict[ModelName, ServedModelSpec] = Field(min_length=1)
    aliases: dict[ModelName, str] = Field(default={})  # name -> model
    # JSON of name -> model, or model folder or URL; laid over `aliases` and read again when it changes
    aliases_file: FilePath | None = None
    engine: ServingEngineSpec = ServingEngineSpec()
    on_demand: OnDemandSpec = OnDemandSpec()
    http: HttpSpec = HttpSpec()
    limits: LimitsSpec = LimitsSpec()
    tokens: FilePath | None = None  # token file, see docs/serving.md; None: everybody who reaches the port
    audit: AuditSpec = AuditSpec()
    access_log: FilePath | None = None  # file of one JSON object a request; None: the gateway's standard error
    data: DataSpec | None = None  # as a run's: its sets are offered as questions
    nli: str | None = None  # judges entailment in probes; null leaves it out
    address: str | None = None  # of the Ray cluster; None: RAY_ADDRESS, one already running here, or a new local one

    @field_validator("models")
    @classmethod
    def _known_bases(cls, models: dict[str, ServedModelSpec]) -> dict[str, ServedModelSpec]:
        for name, spec in models.items():
            if spec.adapter_of is None:
                continue
            base = models.get(spec.adapter_of)
            whole = [each for each, other in models.items() if other.adapter_of is None and not other.on_demand]
            if base is None or base.adapter_of is not None or base.on_demand:
                raise ValueError(
                    f"{name}: adapter_of={spec.adapter_of} is no model that is always loaded; "
                    f"known: {', '.join(whole) or 'none'}"
                )
            if key := _first_given(spec, OF_THE_BASE):
                raise ValueError(
                    f"{name}: {key}: an adapter has its base's; give it to {spec.adapter_of}, or merge the adapter"
                )
        return models

    @field_validator("models")
    @classmethod
    def _nothing_of_their_own(cls, models: dict[str, ServedModelSpec]) -> dict[str, ServedModelSpec]:
        for name, spec in models.items():
            if not spec.on_demand or spec.adapter_of is not None:
                continue
            if key := _first_given(spec, OF_ALL_REPLICAS):
                raise ValueError(
                    f"{name}: {key}: models on demand share the replicas of on_demand; set on_demand.replicas, or "
                    f"on_demand: false for {name}"
                )
            if spec.engine is not None and (key := _first_given(spec.engine, OF_ALL_ENGINES)):
                raise ValueError(
                    f"{name}: engine.{key}: models on demand share replicas; give it to the config's engine, or set "
                    f"on_demand: false for {name}"
                )
        return models

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> "ServeRun":
        for alias, model in self.aliases.items():
            if alias in self.models:
                raise ValueError(f"aliases.{alias}: is a model's name; give the alias another")
            if model not in self.models:
                raise ValueError(f"aliases.{alias}: {model} is no model; known: {', '.join(self.models)}")
        rare = [name for name, spec in self.models.items() if spec.on_demand]
        if rare and not self.on_demand.replicas:
            raise ValueError(f"on_demand.replicas: is 0, but {rare[0]} is to be loaded on demand; set 1 or more")
        return self

    @property
    def loads_on_demand(self) -> bool:
        """Whether any model may have to be loaded: one of the config, or a folder that the alias file names."""
        rare = any(spec.on_demand for spec in self.models.values())
        return self.on_demand.replicas > 0 and (rare or self.aliases_file is not None)

    def with_absolute_paths(self) -> "ServeRun":
        """The same server for a process in another folder."""
        paths = {key: getattr(self, key) for key in ("aliases_file", "tokens", "access_log")}
        audit = self.audit.model_copy(update={"file": _absolute(self.audit.file)})
        data = None if self.data is None else self.data.model_copy(update=dict(_files_of(self.data)))
        return self.model_copy(
            update={**{key: _absolute(path) for key, path in paths.items()}, "audit": audit, "data": data}
        )

    def engine_of(self, name: str) -> ServingEngineSpec:
        """An adapter's is its base's; what is loaded on demand from an alias has the config's own."""
        spec = self.models.get(name)
        if spec is None:
            return self.engine
        if spec.adapter_of is not None:
            return self.engine_of(spec.adapter_of)
        if spec.engine is None or not spec.on_demand:
            return spec.engine or self.engine
        return spec.engine.model_copy(update={key: getattr(self.engine, key) for key in OF_ALL_ENGINES})

    def adapters_of(self, name: str) -> dict[str, ServedModelSpec]:
        return {each: spec for each, spec in self.models.items() if spec.adapter_of == name}

    @property
    def resident(self) -> list[str]:
        """Models that are always loaded, each in replicas of its own."""
        return [name for name, spec in self.models.items() if spec.adapter_of is None and not spec.on_demand]


def _first_given(spec: Spec, keys: Iterable[str]) -> str | None:
    """The first of the keys that has another value than its default, so that a dumped config can be read again."""
    fields = type(spec).model_fields
    return next((key for key in keys if getattr(spec, key) != fields[key].default), None)


def _files_of(data: Spec) -> Iterator[tuple[str, str | None]]:
    """The keys that name a file or folder of this machine, with its absolute path."""
    for key, value in data:
        if isinstance(value, str) and Path(value).expanduser().exists():
            yield key, _absolute(value)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
