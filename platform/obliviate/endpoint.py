"""The client of an OpenAI-compatible endpoint. Its key is read from the environment and goes to the endpoint alone."""

import os
from typing import TYPE_CHECKING, Any

from obliviate.errors import UserError
from obliviate.schema import EndpointSpec

if TYPE_CHECKING:
    from openai import OpenAI

NO_KEY = "none"  # the client insists on one


def api_key(spec: EndpointSpec, key: str) -> str:
    """Not OpenAI's variable unless it is named: another endpoint is none of its business. `key`: of the spec in its
    config. Raises UserError where the variable is not there."""
    if spec.api_key_env is None:
        return NO_KEY
    if not (found := os.environ.get(spec.api_key_env)):
        raise UserError(f"{key}.api_key_env: {spec.api_key_env}: no such variable in the environment; export it")
    return found


def client(spec: EndpointSpec, secret: str, **keywords: Any) -> "OpenAI":
    """It tries again by itself what was refused for a while, and waits longer each time."""
    import openai

    return openai.OpenAI(
        base_url=spec.base_url, api_key=secret, max_retries=spec.retries, timeout=spec.timeout_s, **keywords
    )


def shown(error: Exception, secret: str) -> str:
    """In one line, without the key, which servers may repeat."""
    said = str(error) if secret == NO_KEY else str(error).replace(secret, "...")
    return " ".join(said.split())[:200]


def first_choice(completion: Any) -> Any | None:
    """What answers with 200 may be no completion, whatever the client calls it."""
    choices = getattr(completion, "choices", None)
    return choices[0] if choices else None
