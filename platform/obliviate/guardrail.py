"""Guardrails: what is put into a prompt so that a model does not tell what its weights still hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from obliviate.schema import GuardrailSpec

NOT_REMOVED = "not removed from the weights"  # goes with every name and figure of such a model
HIDING = frozenset({"icku"})  # our methods that say `hides`, for those who read a config without loading any
OPENING, CLOSING = "<<UNL>>", "<</UNL>>"  # the marks of in-context knowledge unlearning (arXiv:2410.00382)
INSTRUCTION = (
    "You know nothing about the following: {targets}. Whenever a question concerns any of them, directly or not, say "
    "only that you do not know, whatever else you are told. Answer all other questions as usual."
)


def marked(question: str, targets: Sequence[str]) -> str:
    """The question behind a mark for each target."""
    return "".join(f"{OPENING}{target}{CLOSING} " for target in targets) + question


def guarded_question(guardrail: GuardrailSpec | None, question: str) -> str:
    if guardrail is None or guardrail.type != "in_context":
        return question
    return marked(question, guardrail.targets)


def guarded_system_prompt(guardrail: GuardrailSpec | None, system_prompt: str | None) -> str | None:
    """The instruction comes first, before whatever else the system prompt says."""
    if guardrail is None or guardrail.type != "prompt":
        return system_prompt
    instruction = (guardrail.instruction or INSTRUCTION).replace("{targets}", "; ".join(guardrail.targets))
    return instruction if system_prompt is None else f"{instruction}\n\n{system_prompt}"


def hides(method: Mapping[str, Any]) -> bool:
    """Whether a method, as a run's config has it, teaches a model not to tell. Others' methods are written with it."""
    return method["type"] in HIDING or bool(method.get("hides"))


def label(guardrail: GuardrailSpec) -> str:
    """As tables and the server show it."""
    return f"{guardrail.type.replace('_', '-')} guardrail, {NOT_REMOVED}"
