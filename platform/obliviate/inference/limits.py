"""What follows from a request alone and is the same on every engine: what ends it, its room, its seed, its checks."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec

SAMPLES = 16  # of one prompt that a request to a server asks for


def context_limit(spec: EngineSpec, config: Any) -> int:
    """Tokens of prompt and continuation together: the engine's limit, or the model's positions where they are fewer.

    `config` is the model's transformers config.
    """
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return spec.max_model_len if positions is None else min(spec.max_model_len, positions)


def switch_length(config: Any) -> int | None:
    """Tokens of a text beyond which all of its positions are rotated otherwise (LongRoPE); None: never."""
    rope: dict[str, Any] = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    lengths = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(lengths, default=None)


def require_one_rotation(config: Any, model: ModelSpec, key: str, limit: int) -> None:
    """Raises UserError where vLLM would rotate short texts as long ones: it goes by the engine's limit, not the text.

    Scoring generates one token behind the text.
    """
    switch = switch_length(config)
    if switch is not None and limit >= switch:
        raise UserError(
            f"{key}: {limit}: {model.source} rotates texts of more than {switch} tokens otherwise (longrope), and vLLM "
            f"then all texts alike; lower it to {switch - 1}, or take the engine hf"
        )


def room(prompt_length: int, sampling: GenerationSpec, limit: int) -> int:
    """How many new tokens fit behind the prompt; 0 where the prompt already fills the limit."""
    if sampling.max_new_tokens is not None:
        limit = min(limit, prompt_length + sampling.max_new_tokens)
    else:
        assert sampling.max_length is not None
        limit = min(limit, sampling.max_length)
    return max(0, limit - prompt_length)


def request_seed(prompt: Sequence[int], seed: int) -> int:
    """A seed in [0, 2^62) of the prompt itself: its samples do not depend on what shares its batch or its chunk.

    Sample i of the request uses this seed + i.
    """
    digest = blake2b(",".join(map(str, (seed, *prompt))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def by_prompt(texts: Sequence[Encoded]) -> list[int]:
    """Indices with the answers to one prompt side by side; prompts with the longest text first, longest text first."""
    longest: dict[tuple[int, ...], int] = {}
    for text in texts:
        longest[text.prompt_ids] = max(longest.get(text.prompt_ids, 0), len(text.input_ids))
    rank = {prompt: i for i, prompt in enumerate(sorted(longest, key=lambda prompt: -longest[prompt]))}
    return sorted(range(len(texts)), key=lambda i: (rank[texts[i].prompt_ids], -len(texts[i].input_ids)))


def reject_unscorable(texts: Sequence[Encoded], limit: int) -> None:
    """Raises UserError where a text exceeds the limit: cut by an engine, it would silently be another text."""
    for text in texts:
        assert text.prompt_length > 0, "the first token has no predecessor to be predicted from"
        if len(text.input_ids) > limit:
            raise UserError(
                f"engine.max_model_len={limit}: a text of {len(text.input_ids)} tokens does not fit; "
                "raise engine.max_model_len (up to what the model has positions for) or lower model.max_length"
            )
