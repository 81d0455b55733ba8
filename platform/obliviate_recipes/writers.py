"""Who writes texts when they are asked to: an OpenAI-compatible endpoint, or a model of our own."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate.runs import content_hash
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec, Spec


class EndpointWriter(Spec):
    """A server that speaks OpenAI's chat completions."""

    limit: ClassVar = "writer.max_tokens"  # the key of what cuts a reply off

    type: Literal["endpoint"] = "endpoint"
    base_url: str  # http://localhost:8000/v1
    model: str  # as the server calls it
    api_key_variable: str | None = None  # environment variable that holds the key; None: the server wants none
    # Of a reply: twenty questions with five false answers each take some 4000
    max_tokens: int = Field(default=4096, ge=1)
    parallel: int = Field(default=8, ge=1)  # requests at a time

    @property
    def content(self) -> str:
        """Hash of who writes."""
        return content_hash([self.base_url, self.model])

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """Raises UserError where the key is missing and where the server does not answer."""
        from openai import OpenAI, OpenAIError

        client = OpenAI(base_url=self.base_url, api_key=self._key())

        def reply(prompt: str) -> str:
            answer = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=self.max_tokens,
                temperature=0,
            )
            return answer.choices[0].message.content or ""

        try:
            with ThreadPoolExecutor(self.parallel) as threads:
                return list(threads.map(reply, prompts))
        except OpenAIError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"writer.base_url: {self.base_url}: {self.model} does not answer ({reason})") from error

    def _key(self) -> str:
        if self.api_key_variable is None:
            return "none"  # the client insists on one
        key = os.environ.get(self.api_key_variable)
        if not key:
            raise UserError(f"writer.api_key_variable: {self.api_key_variable} is not set in the environment; set it")
        return key


class ModelWriter(Spec):
    """A model on our engines: the one that is to forget, say, which then tells what it knows itself."""

    limit: ClassVar = "writer.generation.max_new_tokens and writer.engine.max_model_len"

    type: Literal["model"] = "model"
    model: ModelSpec
    engine: EngineSpec = EngineSpec(max_model_len=8192)
    generation: GenerationSpec = GenerationSpec(max_new_tokens=4096)
    address: str | None = None  # of the Ray cluster, as in cluster.address

    @property
    def content(self) -> str:
        return content_of(self.model)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        from obliviate.cluster import ensure_ray
        from obliviate.inference.pool import EnginePool
        from obliviate.inference.thinking import without_thinking
        from obliviate.models import encoder_of, portable

        model = portable(self.model)
        encoder = encoder_of(model)
        ensure_ray(self.address)
        with EnginePool(model, self.engine) as pool:
            generated = pool.generate([encoder.prompt(prompt) for prompt in prompts], self.generation)
        return [samples[0].text for samples in without_thinking(encoder, generated)]


AnyWriter = Annotated[EndpointWriter | ModelWriter, Field(discriminator="type")]
