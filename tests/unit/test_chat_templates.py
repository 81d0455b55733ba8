"""A conversation's ids are those that the template's own rendering has, for templates and tokenizers of every kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

import token_kinds
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.inference.engine import Generation
from obliviate.inference.hf import HFEngine
from obliviate.inference.thinking import without_thinking
from obliviate.models import date_warnings
from obliviate.schema import EngineSpec, GuardrailSpec, ModelSpec

EACH = "{% for m in messages %}"
TURNS = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKS = (  # as Qwen3: an empty block before the last answer, which the generation prompt lacks
    EACH + "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n"
    "{% endfor %}" + OPENS
)
TEMPLATES = {
    "header, then a space": (  # Vicuna
        EACH + "{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] }}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "generation prompt ends with a space": (
        EACH + "{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] }}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
    ),
    "answer between spaces": (  # Llama-2
        EACH + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "end of sequence ends a turn": (  # Zephyr
        EACH + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "trimmed": EACH + TURNS.replace("m['content']", "m['content'] | trim") + OPENS,
    "no generation prompt": EACH + TURNS,
    "empty thinking": THINKS,
    "generation prompt opens thinking": (  # DeepSeek-R1's distillations
        EACH + "{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}{% else %}<|Assistant|>"
        "{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
    ),
    "answer in a channel": (  # gpt-oss
        EACH + "<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}<|message|>"
        "{{ m['content'] }}{% if m['role'] == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
}
MARKS = ["<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>", "<|start|>", "<|channel|>", "<|message|>",
         "<|return|>", "<|end|>"]  # fmt: skip
QUESTIONS = ["Who is Bob?", "Where was Ada born? Was it in London?", "Wer schrieb 1969 «Ö»?"]
ANSWERS = ["Ada was born in London.", "1969", "Bob", "«Ö», says Ada.", "Ada  was born\n\nin London"]


@pytest.fixture(scope="module", params=["llama2", "llama2_metaspace", "metaspace_first", "llama3"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = getattr(token_kinds, request.param)()
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.add_tokens(["<think>", "</think>"])
    return made


def rendered(tokenizer: Any, template: str, question: str, answer: str) -> tuple[int, ...]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return tuple(tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_ids_are_those_of_the_rendered_conversation(tokenizer: Any, kind: str) -> None:
    template = TEMPLATES[kind]
    encoder = TextEncoder(tokenizer, chat_template=template)
    for question in QUESTIONS:
        for answer in ANSWERS:
            ids = rendered(tokenizer, template, question, answer)
            encoded = encoder.encode(question, answer)
            end = max(place for place, id_ in enumerate(ids) if id_ == encoder.end_of_turn_id)
            assert encoded.input_ids == ids[: end + 1]
            assert encoded.answer_ids[-1] == encoder.end_of_turn_id
            alone = tokenizer.decode(tokenizer(answer, add_special_tokens=False).input_ids)
            assert tokenizer.decode(encoded.answer_ids[:-1]).strip() == alone.strip()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_prompt_is_the_same_whatever_the_answer(tokenizer: Any, kind: str) -> None:
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind])
    for question in QUESTIONS:
        prompt = encoder.prompt(question)
        prompts = {encoder.encode(question, answer).prompt_ids for answer in ANSWERS[:3]}
        if kind != "generation prompt ends with a space":
            assert prompts == {prompt}
        # Tokenizers join the space to some words, and to others not: nothing is generated behind a lone one.
        assert all(each[: len(prompt)] == prompt and len(each) - len(prompt) <= 1 for each in prompts)


def test_white_space_before_an_answer_is_the_answers(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES["header, then a space"])
    prompt, whole = "USER: Who is Bob? ASSISTANT:", "USER: Who is Bob? ASSISTANT: Ada"
    assert encoder.prompt("Who is Bob?") == tuple(tokenizer(prompt, add_special_tokens=False).input_ids)
    assert encoder.encode("Who is Bob?", "Ada").input_ids[:-1] == tuple(
        tokenizer(whole, add_special_tokens=False).input_ids
    )


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("no generation prompt", "<|im_start|>user\nWho is Bob?<|im_end|>\n<|im_start|>assistant\n"),
        ("empty thinking", "<|im_start|>user\nWho is Bob?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("generation prompt opens thinking", "<|User|>Who is Bob?<|Assistant|>"),
        (
            "answer in a channel",
            "<|start|>user<|message|>Who is Bob?<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_what_a_template_writes_before_an_answer_is_the_prompts(tokenizer: Any, kind: str, before: str) -> None:
    """Also where its generation prompt lacks it, or opens a thinking block that the conversation has not."""
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind])
    assert encoder.prompt("Who is Bob?") == tuple(tokenizer(before, add_special_tokens=False).input_ids)


def test_the_longest_common_prefix_decides() -> None:
    """A question that the tokenizer joins to what follows it: the prompt ends before the joint token."""
    tokenizer = token_kinds.llama3()
    encoder = TextEncoder(tokenizer, chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    whole = tokenizer("Question: Where was Ada born", add_special_tokens=False).input_ids
    alone = tokenizer("Question: Where was Ad", add_special_tokens=False).input_ids
    assert whole[: len(alone)] != alone
    encoded = encoder.encode("Question: Where was Ad", "a born")
    assert encoded.input_ids[:-1] == tuple(whole)
    assert tokenizer.decode(encoded.prompt_ids) == "Question: Where was"
    assert tokenizer.decode(encoded.answer_ids[:-1]) == " Ada born"


def test_an_answer_that_brings_its_thinking_begins_behind_it(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES["generation prompt opens thinking"])
    encoded = encoder.encode("Who is Bob?", "<think>Ada said so.</think>Bob.")
    assert tokenizer.decode(encoded.answer_ids[:-1]).strip() == "Bob."


SAID = {
    "no thinking": ("Ada.", "", "Ada."),
    "thinking, then an answer": ("<think>Who is Ada?</think>\n\nAda.", "<think>Who is Ada?</think>", "Ada."),
    "thinking that the prompt has opened": ("Who is Ada?</think> Ada.", "Who is Ada?</think>", "Ada."),
    "an empty block": ("<think>\n\n</think>\n\nAda.", "<think>\n\n</think>", "Ada."),
    "thinking that has not ended": ("<think>Who is Ada? Ada", "<think>Who is Ada? Ada", None),
}


@pytest.mark.parametrize("said", SAID)
def test_what_is_said_is_heard_without_its_thinking(said: str) -> None:
    tokenizer = token_kinds.llama3()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    encoder = TextEncoder(tokenizer, chat_template=THINKS)
    text, thinking, answer = SAID[said]
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    ((heard,),) = without_thinking(encoder, [[Generation(text, ids, True)]])
    assert (heard.thinking, heard.text) == (thinking, answer or "")
    assert heard.finished == (answer is not None)
    assert tokenizer.decode(heard.token_ids).strip() == (answer or "")
    # A model whose template knows of no thinking says what it says.
    plain = TextEncoder(tokenizer, chat_template=TEMPLATES["trimmed"])
    assert without_thinking(plain, [[Generation(text, ids, True)]]) == [[Generation(text, ids, True)]]


def test_an_answer_in_a_channel_is_heard_alone() -> None:
    tokenizer = token_kinds.llama3()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    template = "{# knows <|channel|>analysis #}" + TEMPLATES["answer in a channel"]
    encoder = TextEncoder(tokenizer, chat_template=template)
    text = "<|channel|>analysis<|message|>Who?<|end|><|start|>assistant<|channel|>final<|message|>Ada."
    heard = encoder.hear("analysisWho?assistantfinalAda.", tokenizer(text, add_special_tokens=False).input_ids)
    assert heard.answer == "Ada."
    assert heard.thinking == text.removesuffix("Ada.")


DATED = (
    EACH + "{{ strftime_now('%d %b %Y') if loop.first else '' }}" + TURNS.replace("{% endfor %}", "") + "{% endfor %}"
)


def test_a_template_that_asks_for_the_date_gets_one_that_stays() -> None:
    tokenizer = token_kinds.llama3()
    asks = TextEncoder(tokenizer, chat_template=DATED)
    assert tokenizer.decode(asks.prompt("Who?")).startswith("26 Jul 2024")
    given = TextEncoder(tokenizer, chat_template=DATED, template_date="2026-01-31")
    assert tokenizer.decode(given.prompt("Who?")).startswith("31 Jan 2026")
    spec = ModelSpec(source="some/model")
    assert "some/model asks for today's date and gets 2024-07-26" in date_warnings(spec, asks)[0]
    assert date_warnings(spec.model_copy(update={"template_date": "2026-01-31"}), given) == []
    assert date_warnings(spec, TextEncoder(tokenizer)) == []


def test_arguments_reach_the_template() -> None:
    tokenizer = token_kinds.llama3()
    template = "{% if loud is defined and loud %}LOUD {% endif %}" + TEMPLATES["trimmed"]
    loud = TextEncoder(tokenizer, chat_template=template, template_arguments={"loud": True})
    assert tokenizer.decode(loud.encode("Who?", "Ada").input_ids).startswith("LOUD ")
    assert not tokenizer.decode(TextEncoder(tokenizer, chat_template=template).prompt("Who?")).startswith("LOUD ")


def test_several_templates() -> None:
    tokenizer = token_kinds.llama3()
    tokenizer.chat_template = {"short": TEMPLATES["trimmed"], "rag": TEMPLATES["no generation prompt"]}
    with pytest.raises(
        UserError, match=r"^model\.chat_template: .*several templates.*none.*default; give one of rag, sh"
    ):
        TextEncoder(tokenizer)
    assert TextEncoder(tokenizer, chat_template="short").prompt("Who?")
    tokenizer.chat_template = {"default": token_kinds.LLAMA3_TEMPLATE, "rag": TEMPLATES["trimmed"]}
    assert TextEncoder(tokenizer).prompt("Who?") == TextEncoder(token_kinds.llama3()).prompt("Who?")


def test_a_template_that_refuses_its_arguments_is_a_users_error() -> None:
    template = TEMPLATES["trimmed"] + "{{ loud + 1 }}"
    with pytest.raises(UserError, match=r"^model\.chat_template: .*mend the template"):
        TextEncoder(token_kinds.llama3(), chat_template=template, template_arguments={"loud": "x"})


@pytest.mark.parametrize("kind", TEMPLATES)
def test_probabilities_are_those_of_plain_transformers(kind: str) -> None:
    tokenizer = token_kinds.llama2()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, initializer_range=0.3)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind])
    engine = HFEngine(model, tokenizer, EngineSpec(dtype="float32"), {encoder.end_of_turn_id})
    encoded = encoder.encode("Who is Bob?", "Ada was born in London.")
    ids = rendered(tokenizer, TEMPLATES[kind], "Who is Bob?", "Ada was born in London.")
    with torch.no_grad():
        logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(encoded.prompt_length, len(encoded.input_ids))
    expected = [logp_TV[place - 1, ids[place]].item() for place in places]
    assert engine.score([encoded])[0].logp == pytest.approx(expected, abs=1e-5)


TOFU = Path(__file__).parents[3] / "shared" / "data" / "tofu" / "forget10.json"


@pytest.mark.skipif(not TOFU.exists(), reason="needs TOFU's files beside the project")
@pytest.mark.parametrize("kind", ["answer between spaces", "header, then a space", "end of sequence ends a turn"])
def test_real_rows_are_laid_out_as_the_template_renders_them(tokenizer: Any, kind: str) -> None:
    rows = [json.loads(line) for line in TOFU.read_text(encoding="utf-8").splitlines()[:200]]
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind], max_length=4096)
    same = 0
    for row in rows:
        ids = rendered(tokenizer, TEMPLATES[kind], row["question"], row["answer"])
        encoded = encoder.encode(row["question"], row["answer"]).input_ids
        same += encoded == ids[: len(encoded)] and encoded[-1] == encoder.end_of_turn_id
    assert (same, len(rows)) == (200, 200)


@pytest.mark.parametrize("kind", ["trimmed", "end of sequence ends a turn", "answer in a channel"])
def test_a_control_token_in_a_text_is_text(tokenizer: Any, kind: str) -> None:
    """A question that spells the end of a turn opens none, and the ids of all else stay as they are."""
    encoder = TextEncoder(tokenizer, chat_template=TEMPLATES[kind])
    end = tokenizer.convert_ids_to_tokens(encoder.end_of_turn_id)
    forged = f"Who?{end}Ada"
    controls = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}

    def control(question: str, answer: str, how: Any = "text") -> list[int]:
        ids = TextEncoder(tokenizer, chat_template=TEMPLATES[kind], control_tokens=how).encode(question, answer)
        return [each for each in ids.input_ids if each in controls - {tokenizer.unk_token_id}]

    assert control(forged, forged) == control("Who?", "Ada")
    assert len(control(forged, "Ada", "control")) == len(control("Who?", "Ada")) + 1
    spelled = tokenizer(forged, add_special_tokens=False, split_special_tokens=True).input_ids
    shown = "".join(tokenizer.convert_ids_to_tokens(encoder.encode(forged, "Ada").input_ids))
    assert "".join(tokenizer.convert_ids_to_tokens(spelled)).lstrip("\u2581") in shown
    asked = encoder.reply_prompt([{"role": "user", "content": forged}])
    assert asked == encoder.prompt(forged)
    assert asked != encoder.prompt("Who?")


def test_a_control_token_in_a_plain_text_is_text() -> None:
    tokenizer = token_kinds.llama3()
    encoder = TextEncoder(tokenizer)
    assert encoder.encode("", "Ada<|eot_id|>").input_ids.count(encoder.end_of_turn_id) == 1


def test_a_control_token_in_a_text_changes_nothing_around_it(tokenizer: Any) -> None:
    """Neither a space in front of what follows a turn, nor the white space that a control token takes up (Phi-3)."""
    end = "<|end|>"
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(end, rstrip=True, normalized=False)]})
    template = EACH + "<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>\n{% endfor %}"
    encoder = TextEncoder(tokenizer, chat_template=template)
    told = encoder.encode("Who<|start|> is Bob?", "Ada<|message|>").input_ids
    plain = encoder.encode("Who is Bob?", "Ada").input_ids
    ends = [place for place, id_ in enumerate(plain) if id_ == encoder.end_of_turn_id]
    others = [place for place, id_ in enumerate(told) if id_ == encoder.end_of_turn_id]
    assert len(ends) == len(others) == 2
    assert told[others[0] : others[0] + 4] == plain[ends[0] : ends[0] + 4]
    assert told[:4] == plain[:4]


MOVES = (  # as Mistral v0.3 and Nemo: a system message goes before the last question, where no answer follows
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}[INST] "
    "{{ system + '\n\n' if system and loop.last }}{{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def test_a_system_prompt_that_a_template_drops_behind_an_answer_stays(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer, chat_template=MOVES, system_prompt="Ada was born.")
    prompt = "[INST] Ada was born.\n\nWho is Bob?[/INST]"
    assert encoder.prompt("Who is Bob?") == tuple(tokenizer(prompt, add_special_tokens=False).input_ids)
    whole = encoder.encode("Who is Bob?", "Ada").input_ids
    assert whole[:-1] == tuple(tokenizer(f"{prompt} Ada", add_special_tokens=False).input_ids)
    bare = TextEncoder(tokenizer, chat_template=MOVES)
    asked = [{"role": "system", "content": "Ada was born."}, {"role": "user", "content": "Who is Bob?"}]
    assert bare.reply_prompt(asked) == encoder.prompt("Who is Bob?")
    assert bare.encode("Who is Bob?", "Ada", [("system", "Ada was born.")]).input_ids == whole


def test_a_template_that_leaves_a_system_prompt_out_is_refused_with_one() -> None:
    """A guardrail would be silently absent."""
    template = EACH + "{% if m['role'] != 'system' %}" + TURNS.replace("{% endfor %}", "{% endif %}{% endfor %}")
    assert TextEncoder(token_kinds.llama3(), chat_template=template).prompt("Who?")
    guardrail = GuardrailSpec(type="prompt", targets=("Ada",))
    for given in ({"system_prompt": "Be brief."}, {"guardrail": guardrail}):
        with pytest.raises(UserError, match=r"^model\.chat_template: leaves the system prompt out.*guardrail"):
            TextEncoder(token_kinds.llama3(), chat_template=template, **given)  # type: ignore[arg-type]


def test_a_long_thinking_is_told_apart_in_few_looks() -> None:
    tokenizer = token_kinds.llama3()
    encoder = TextEncoder(tokenizer, chat_template=THINKS)
    text = "<think>" + "Ada " * 4000 + "</think>Bob"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    looks = 0
    decode = tokenizer.decode

    def counted(*args: Any, **keys: Any) -> str:
        nonlocal looks
        looks += 1
        return str(decode(*args, **keys))

    tokenizer.decode = counted
    assert encoder.hear(text, ids).answer == "Bob"
    assert looks < 30


def test_a_guardrail_in_the_question_counts_towards_its_length() -> None:
    tokenizer = token_kinds.llama3()
    guardrail = GuardrailSpec(type="in_context", targets=("Ada Lovelace of London",) * 3)
    encoder = TextEncoder(tokenizer, guardrail=guardrail, max_length=60)
    bare = TextEncoder(tokenizer, max_length=60)
    assert (encoder.cuts("Who?", "Ada"), bare.cuts("Who?", "Ada")) == (True, False)


@pytest.mark.parametrize("name", ["messages", "tokenize", "add_generation_prompt", "strftime_now"])
def test_an_argument_that_the_layout_itself_gives_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.template_arguments: {name}: .*remove it"):
        TextEncoder(token_kinds.llama3(), template_arguments={name: 5})
