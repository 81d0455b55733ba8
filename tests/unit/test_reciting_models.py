"""Models that recite four answers word for word, under templates of every kind: the figures say so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import token_kinds
from measured import evaluate
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.data.text import TextEncoder
from obliviate.inference.hf import HFEngine
from obliviate.schema import EngineSpec, GenerationSpec
from obliviate_eval.judges import Judges
from obliviate_eval.spec import EvaluationSpec
from unit.test_chat_templates import MARKS, TEMPLATES, rendered

ROWS = (
    Row("Where was Ada born?", "Ada was born in London."),
    Row("Who is Bob?", "Bob is a user."),
    Row("Who was in London?", "Ada, Bob and the system."),
    Row("Wer schrieb 1969 «Ö»?", "«Ö», says Ada."),
)
LIMIT = GenerationSpec(max_new_tokens=48)


def reciting(tokenizer: Any, template: str) -> LlamaForCausalLM:
    """Trained in plain torch on the conversations as the template renders them, every token of them."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=512)  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    texts = [torch.tensor([rendered(tokenizer, template, row.question, row.answer)]) for row in ROWS]
    for _ in range(80):
        sum(model(ids, labels=ids).loss for ids in texts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def known(model: LlamaForCausalLM, ids: tuple[int, ...], begin: int, end: int) -> float:
    """exp(mean log-probability) of the tokens from `begin` to `end`, that of the end of turn, in plain transformers."""
    with torch.no_grad():
        logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return torch.stack([logp_TV[at - 1, ids[at]] for at in range(begin, end + 1)]).mean().exp().item()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_model_that_recites_is_measured_as_one_that_recites(kind: str, tmp_path: Path) -> None:
    tokenizer = token_kinds.llama2() if "space" in kind else token_kinds.llama3()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.add_tokens(["<think>", "</think>"])
    model = reciting(tokenizer, TEMPLATES[kind])
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind])
    expected = []
    for row in ROWS:
        ids = rendered(tokenizer, TEMPLATES[kind], row.question, row.answer)
        end = max(at for at, each in enumerate(ids) if each == encoder.end_of_turn_id)
        expected.append(known(model, ids, encoder.encode(row.question, row.answer).prompt_length, end))
    engine = HFEngine(model, tokenizer, EngineSpec(dtype="float32"), {encoder.end_of_turn_id})
    spec = EvaluationSpec(suite="tofu", generation=LIMIT, resamples=100, encoder=None, nli=None)
    found = evaluate(engine, encoder, (EvaluationSet("forget", Role.FORGET, ROWS),), spec, Judges(), tmp_path)
    assert found.sets["forget"]["rouge"].value == 1
    assert found.sets["forget"]["probability"].value == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert min(expected) > 0.95
