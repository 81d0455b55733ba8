"""`python -m families.vllm_answers A B OUT`: what vLLM answers for model A, and, where it reloads weights, for B and
for A again."""

import json
import sys
from pathlib import Path
from typing import Any

from families.checks import NEW, Subject, prompts, texts
from obliviate.errors import UserError
from obliviate.inference.vllm import VLLMEngine, reloads
from obliviate.models import architecture
from obliviate.schema import EngineSpec, GenerationSpec


def answers(engine: VLLMEngine) -> dict[str, Any]:
    generated = engine.generate(prompts(), GenerationSpec(max_new_tokens=NEW))
    return {
        "logp": [text.logp for text in engine.score(texts())],
        "tokens": [generation.token_ids for (generation,) in generated],
    }


def main(first: str, second: str, out: str) -> None:
    found: dict[str, Any] = {"answers": []}
    specs = [Subject(Path(folder)).spec() for folder in (first, second)]
    try:
        engine = VLLMEngine.open(specs[0], EngineSpec(type="vllm", dtype="float32", max_model_len=64))
        found["answers"].append(answers(engine))
        if reloads(architecture(specs[0]) or {}):
            for spec in (specs[1], specs[0]):
                engine.load(spec)
                found["answers"].append(answers(engine))
    except UserError as error:
        found["refused"] = str(error)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
