"""What an answer stands behind: part of the prompt, in one layout for scoring, training and generation."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import token_kinds
from obliviate.data.rows import EvaluationSet, Role, Row, read_rows, write_rows
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.inference.engine import Generation, ScoredText
from obliviate.schema import GenerationSpec
from obliviate_eval.collect import Sampling, collect
from obliviate_eval.suites import SUITES


@pytest.fixture(scope="module")
def llama3() -> Any:
    return token_kinds.llama3()


def test_the_prefix_stands_behind_the_header(llama3: Any) -> None:
    encoder = TextEncoder(llama3)
    encoded = encoder.encode_row(Row("Who is Bob?", "Ada.", answer_prefix="Answer:"))
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert llama3.decode(encoded.prompt_ids).endswith(f"Who is Bob?<|eot_id|>{header}Answer:")
    assert llama3.decode(encoded.answer_ids) == " Ada.<|eot_id|>"
    assert encoder.prompt("Who is Bob?", prefix="Answer:") == encoded.prompt_ids
    assert encoder.prompt("Who is Bob?", prefix="Answer: ") == encoded.prompt_ids  # the space is the answer's
    messages = [{"role": "user", "content": "Who is Bob?"}, {"role": "assistant", "content": "Answer: Ada."}]
    assert encoded.input_ids == tuple(llama3.apply_chat_template(messages, tokenize=True, return_dict=False))


def test_built_in_layouts(llama3: Any) -> None:
    plain = TextEncoder(llama3, chat_template="plain").encode("Who?", "Ada.", prefix="Hm:")
    assert llama3.decode(plain.prompt_ids) == "<|begin_of_text|>Question: Who?\nAnswer: Hm:"
    raw = TextEncoder(llama3, chat_template="raw").encode("Who?\n", "Ada.", prefix="Hm:")
    assert llama3.decode(raw.prompt_ids) == "<|begin_of_text|>Who?\nHm:"
    assert llama3.decode(raw.answer_ids) == " Ada.<|end_of_text|>"


@pytest.mark.parametrize("layout", [None, "plain", "raw"])
@given(question=st.text("aAb ?\n", min_size=1, max_size=9), answer=st.text("aAb .", min_size=1, max_size=9))
def test_scored_and_generated_behind_the_same(llama3: Any, layout: str, question: str, answer: str) -> None:
    encoder = TextEncoder(llama3, chat_template=layout)
    encoded = encoder.encode(question, f"x{answer}", prefix="Answer:")
    assert encoded.prompt_ids == encoder.prompt(question, prefix="Answer:")


def test_control_tokens_in_a_prefix_are_text(llama3: Any) -> None:
    encoder = TextEncoder(llama3)
    prompt = encoder.prompt("Who?", prefix="So <|eot_id|>:")
    assert prompt.count(llama3.convert_tokens_to_ids("<|eot_id|>")) == 1  # the question's
    assert prompt == encoder.encode("Who?", "Ada", prefix="So <|eot_id|>:").prompt_ids


def test_cuts_counts_the_prefix(llama3: Any) -> None:
    bare = len(TextEncoder(llama3).encode("Who?", "Ada.").input_ids)
    encoder = TextEncoder(llama3, max_length=bare)
    assert not encoder.cuts("Who?", "Ada.")
    assert encoder.cuts("Who?", "Ada.", prefix="Answer:")


def test_rows_with_a_prefix(tmp_path: Path) -> None:
    row = Row("Who?", "Ada", answer_prefix="Answer:", aliases=("Ada L.", "A. L."))
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == (row,)
    assert row.asked == ("Who?", (), "Answer:")
    assert row.saying("Bob") == ("Who?", "Bob", (), "Answer:")
    assert row.key != Row("Who?", "Ada").key
    for wrong in ({"question": "", "answer_prefix": "A:"}, {"question": "Who?", "answer_prefix": " "}):
        (tmp_path / "bad.jsonl").write_text(json.dumps({"answer": "Ada", **wrong}))
        with pytest.raises(UserError, match=r"bad\.jsonl, line 1: 'answer_prefix' is .*; give words that the answer"):
            read_rows(tmp_path / "bad.jsonl")


class Heard:
    """An engine that remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.scored: list[tuple[int, ...]] = []

    def generate(self, prompts: Any, sampling: GenerationSpec) -> list[list[Generation]]:
        self.prompts += prompts
        return [[Generation(" Ada.", (1,), True)] for _ in prompts]

    def score(self, texts: Any) -> list[ScoredText]:
        self.scored += [text.prompt_ids for text in texts]
        return [ScoredText((-1.0,) * len(text.answer_ids), (True,) * len(text.answer_ids)) for text in texts]

    moments = score

    def gradient_norms(self, texts: Any) -> list[float | None]:
        return [None for _ in texts]


def test_evaluation_asks_behind_the_prefix(llama3: Any) -> None:
    """The same question without one is another question."""
    rows = (Row("Who?", "Ada", answer_prefix="Answer:"), Row("Who?", "Ada"))
    engine, encoder = Heard(), TextEncoder(llama3)
    sampling = Sampling(GenerationSpec(), GenerationSpec())
    sets = [EvaluationSet("forget", Role.FORGET, rows)]
    records = collect(engine, encoder, sets, SUITES["tofu"], sampling, lambda *_: None)
    assert engine.prompts == [encoder.prompt("Who?", prefix="Answer:"), encoder.prompt("Who?")]
    assert engine.scored == engine.prompts
    assert [record.generation for record in records] == [" Ada.", " Ada."]
