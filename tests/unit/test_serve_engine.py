"""What happens inside a replica: templates, growing text, limits, and the Hugging Face engine on a tiny model."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from obliviate.errors import UserError
from obliviate.models import load_pretrained, load_tokenizer, text_encoder
from obliviate.runs import whole_folder
from obliviate.schema import ModelSpec
from obliviate_serve.engine import (
    Bare,
    Chat,
    Delta,
    Event,
    Opening,
    Prompt,
    Prompted,
    Quiz,
    Rendered,
    Sampling,
    Token,
)
from obliviate_serve.errors import ApiError
from obliviate_serve.hf import HFServingEngine
from obliviate_serve.render import Renderer
from obliviate_serve.replica import Lent, Loading, Model, Replica, on_demand_replica
from obliviate_serve.spec import ServingEngineSpec
from obliviate_serve.text import GrowingText
from obliviate_serve.vllm import _lora

ENGINE = ServingEngineSpec(type="hf", dtype="float32", max_model_len=64)


@pytest.fixture(scope="module")
def spec(tiny: Path) -> ModelSpec:
    return ModelSpec(source=str(tiny))


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model.load(Loading(ModelSpec(source=str(tiny)), ENGINE, {}, prompt_tokens=40, new_tokens=20))


def ask(model: Model, prompt: Prompt, **sampling: Any) -> list[Event]:
    async def run() -> list[Event]:
        return [event async for event in model.stream(prompt, Sampling(**sampling), None)]

    return asyncio.run(run())


def deltas(events: list[Event], choice: int = 0) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta) and event.choice == choice]


def text(events: list[Event], choice: int = 0) -> str:
    return "".join(delta.text for delta in deltas(events, choice))


def test_a_question_is_laid_out_as_in_evaluation(spec: ModelSpec) -> None:
    tokenizer = load_tokenizer(spec)
    render, encoder = Renderer(spec, tokenizer), text_encoder(spec, tokenizer)
    question, answer = "Who lives in London?", "Ada does."
    encoded = encoder.encode(question, answer)
    assert render(Quiz(question))[0] == encoder.prompt(question)
    assert render(Quiz(question, answer=answer)) == (encoded.input_ids, encoded.prompt_length)
    assert render(Chat((("user", question),)))[0] == encoder.prompt(question)
    ids, before = render(Quiz(question, "Sure:", answer))
    assert tokenizer.decode(ids[:before]).endswith("assistant\nSure:")
    assert tokenizer.decode(ids[before:]) == " Ada does.<|im_end|>"


def test_plain_lines_are_a_chat_too(spec: ModelSpec) -> None:
    plain = spec.model_copy(update={"chat_template": "plain", "system_prompt": "Be brief."})
    tokenizer = load_tokenizer(spec)
    render = Renderer(plain, tokenizer)
    question = Quiz("Who?")
    assert tokenizer.decode(render(Chat((("user", "Who?"),)))[0]) == tokenizer.decode(render(question)[0])
    turns = (("user", "Who?"), ("assistant", "Ada."), ("user", "Where?"))
    assert tokenizer.decode(render(Chat(turns))[0]).endswith("Question: Who?\nAnswer: Ada.\nQuestion: Where?\nAnswer:")


def test_prompts_that_no_model_can_take(spec: ModelSpec) -> None:
    refusing = spec.model_copy(
        update={"chat_template": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}{% endfor %}"}
    )  # fmt: skip
    render = Renderer(refusing, load_tokenizer(spec))
    with pytest.raises(ApiError, match="refuses the messages: no system"):
        render(Chat((("system", "x"), ("user", "y"))))
    for answer in (None, "z"):
        with pytest.raises(ApiError, match="refuses the messages: no system"):
            render(Quiz("y", answer=answer, history=(("system", "x"),)))
    with pytest.raises(ApiError, match="token id 999999 is not in the vocabulary of 384"):
        render((1, 999999))
    with pytest.raises(ApiError, match="the prompt is empty"):
        render("")


def test_greedy_is_the_argmax_of_the_model(model: Model, spec: ModelSpec) -> None:
    """Log-probability, entropy and alternatives against one forward pass over prompt and answer."""
    events = ask(model, "Where does Ada", max_tokens=5, temperature=0.0, logprobs=2, entropy=True)
    tokens = [token for delta in deltas(events) for token in delta.tokens]
    loaded, tokenizer = load_pretrained(spec, dtype=torch.float32)
    ids = list(tokenizer("Where does Ada").input_ids)
    for token in tokens:
        with torch.inference_mode():
            logp_V = loaded(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = logp_V.topk(2)
        assert token.logp == pytest.approx(best.values[0].item(), abs=1e-4)
        assert token.entropy == pytest.approx(-(logp_V.exp() * logp_V).sum().item(), abs=1e-4)
        assert [logp for _, logp in token.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
        ids.append(int(best.indices[0]))
    assert len(tokens) == 5
    assert events[0] == Prompted(len(ids) - 5)


def test_the_true_answers_tokens_alone_are_scored(model: Model, spec: ModelSpec) -> None:
    quiz = Quiz("Who lives in London?", answer="Ada does.")
    asked = {"max_tokens": 0, "temperature": 0.0, "logprobs": 0, "echo": True}
    prompted, delta = ask(model, quiz, **asked)
    loaded, tokenizer = load_pretrained(spec, dtype=torch.float32)
    encoded = text_encoder(spec, tokenizer).encode(quiz.question, "Ada does.")
    with torch.inference_mode():
        logp_TV = loaded(input_ids=torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
    start = encoded.prompt_length
    expected = [logp_TV[t - 1, encoded.input_ids[t]].item() for t in range(start, len(encoded.input_ids))]
    assert isinstance(prompted, Prompted)
    assert [token.logp for token in prompted.tokens] == pytest.approx(expected, abs=1e-4)
    assert "".join(token.text for token in prompted.tokens) == "Ada does.<|im_end|>"
    assert delta == Delta(0, "", 0, (), "length")
    ranks = [
        int((logp_TV[t - 1] >= logp_TV[t - 1, encoded.input_ids[t]]).sum()) for t in range(start, len(expected) + start)
    ]
    assert [token.rank for token in prompted.tokens] == ranks
    assert max(ranks) > 1


@pytest.mark.parametrize("prefix", ["", "Sure:"])
def test_the_tokens_of_a_key_are_told(model: Model, prefix: str) -> None:
    """Those that write any part of "London"."""
    answer = "In London now."
    quiz = Quiz("Who?", prefix, answer, ((3, 9),))
    prompted, _ = ask(model, quiz, max_tokens=0, temperature=0.0, logprobs=0, echo=True)
    assert isinstance(prompted, Prompted)
    said = "".join(prompted.tokens[place].text for place in prompted.key)
    assert said.strip() == "London"
    assert "".join(token.text for token in prompted.tokens).lstrip().startswith(answer)


def test_a_questions_history_is_a_chats(spec: ModelSpec) -> None:
    render = Renderer(spec, load_tokenizer(spec))
    before = (("system", "Be brief."), ("user", "Who?"), ("assistant", "Ada."))
    assert render(Quiz("Where?", history=before))[0] == render(Chat((*before, ("user", "Where?"))))[0]
    assert render(Quiz("Where?", history=before))[0] != render(Quiz("Where?"))[0]


def test_an_answer_that_was_begun_goes_on(spec: ModelSpec) -> None:
    """As an attack's prefix does in evaluation, behind any conversation."""
    tokenizer = load_tokenizer(spec)
    render, encoder = Renderer(spec, tokenizer), text_encoder(spec, tokenizer)
    asked = (("user", "Who?"), ("assistant", "Ada lives "))
    assert render(Chat(asked, begun=True))[0] == encoder.prompt("Who?", prefix="Ada lives ")
    assert tokenizer.decode(render(Chat(asked, begun=True))[0]).endswith("assistant\nAda lives")
    assert render(Chat(asked[1:], begun=True))[0] != render(Chat(asked[1:]))[0]


def test_names_are_for_templates_that_write_them(spec: ModelSpec) -> None:
    named = Chat((("user", "Who?"), ("user", "Where?")), ("Ada", None))
    with pytest.raises(ApiError, match="the model's chat template writes no names") as raised:
        Renderer(spec, load_tokenizer(spec))(named)
    assert (raised.value.status, raised.value.param) == (400, "messages")
    writes = spec.model_copy(
        update={"chat_template": "{% for m in messages %}{{ m.name or m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"}
    )  # fmt: skip
    tokenizer = load_tokenizer(spec)
    text = tokenizer.decode(Renderer(writes, tokenizer)(named)[0])
    assert text == "Ada: Who?<|im_end|>user: Where?<|im_end|>assistant:"


def test_tokens_alone_are_told_without_the_model(model: Model, spec: ModelSpec) -> None:
    tokenizer = load_tokenizer(spec)
    for prompt, ids in (
        ("Where does", tokenizer("Where does").input_ids),
        (Bare("Where does"), tokenizer("Where does", add_special_tokens=False).input_ids),
        ((5, 6, 7), [5, 6, 7]),
    ):
        (found,) = ask(model, prompt, max_tokens=0)  # type: ignore[arg-type]
        assert found == Rendered(tuple(ids), tokenizer.decode(ids), 64)


def test_penalties_and_biases_choose_and_leave_the_log_probabilities(tiny: Path, spec: ModelSpec) -> None:
    """Logits (1, 0.9, 0, ...) at every step, greedy. Each use of a token costs 0.3, and its first 0.5 more: 0 is chosen
    at 1, then 1 at 0.9 over 0.2, then 0 at 0.2 over 0.1. With 0.7 on token 9 it is 0 (1), 1 (0.9), 9 (0.7 over 0.2)."""
    engine = HFServingEngine(spec, ENGINE, {})
    logits_V = torch.full((384,), -5.0)
    logits_V[0], logits_V[1], logits_V[9] = 1.0, 0.9, 0.0
    engine._forward = lambda ids_BT, cache, adapter, keep: logits_V.expand(ids_BT.shape[0], 1, -1)  # type: ignore[method-assign]

    def chosen(**sampling: Any) -> list[float | None]:
        async def run() -> list[Event]:
            asked = Sampling(max_tokens=3, temperature=0.0, logprobs=0, ignore_eos=True, **sampling)
            return [event async for event in engine.stream((5, 6), asked, None)]

        return [token.logp for delta in deltas(asyncio.run(run())) for token in delta.tokens]

    own = logits_V.log_softmax(-1).tolist()
    costs = {"presence_penalty": 0.5, "frequency_penalty": 0.3}
    assert chosen() == pytest.approx([own[0]] * 3)
    assert chosen(**costs) == pytest.approx([own[0], own[1], own[0]])
    assert chosen(**costs, logit_bias=((9, 0.7),)) == pytest.approx([own[0], own[1], own[9]])
    assert chosen(logit_bias=((0, -100.0),)) == pytest.approx([own[1]] * 3)


def test_an_end_of_turn_that_is_to_be_ignored(tiny: Path, spec: ModelSpec) -> None:
    engine = HFServingEngine(spec, ENGINE, {})
    logits_V = torch.zeros(384)
    logits_V[next(iter(engine._stop_ids))] = 100.0
    engine._forward = lambda ids_BT, cache, adapter, keep: logits_V.expand(ids_BT.shape[0], 1, -1)  # type: ignore[method-assign]

    async def run() -> list[Event]:
        asked = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)
        return [event async for event in engine.stream((5, 6), asked, None)]

    assert [delta.finish for delta in deltas(asyncio.run(run()))] == [None, None, None, "length"]


@pytest.mark.parametrize(
    ("sampling", "message", "param"),
    [
        ({"logit_bias": ((384, 1.0),)}, "token id 384 is not in the vocabulary of 384", "logit_bias"),
        ({"json_schema": "{}"}, "this model's engine cannot keep to JSON", "response_format"),
    ],
)
def test_what_an_engine_cannot_do(model: Model, sampling: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        ask(model, "Where", max_tokens=1, **sampling)
    assert (raised.value.status, raised.value.param) == (400, param)


def test_a_part_of_the_prompt_is_echoed(model: Model) -> None:
    """From any token on; the first has no log-probability."""

    async def echoed(start: int) -> Prompted:
        asked = Sampling(max_tokens=0, logprobs=1, entropy=True, echo=True, echo_from=start)
        events = [event async for event in model._engine.stream((5, 6, 7, 8), asked, None)]
        assert isinstance(events[0], Prompted)
        return events[0]

    whole = asyncio.run(echoed(0))
    assert len(whole.tokens) == whole.prompt_tokens == 4
    assert [token.logp is None for token in whole.tokens] == [True, False, False, False]
    for start in (1, 3, 4):
        part = asyncio.run(echoed(start))
        assert (part.prompt_tokens, part.tokens) == (4, whole.tokens[start:])


def test_a_seed_fixes_each_choice(model: Model) -> None:
    three = ask(model, "Where", max_tokens=6, seed=5, n=3)
    assert [text(three, i) for i in range(3)] == [text(ask(model, "Where", max_tokens=6, seed=5 + i)) for i in range(3)]
    assert len({text(three, i) for i in range(3)}) > 1
    assert text(ask(model, "Where", max_tokens=6)) != text(ask(model, "Where", max_tokens=6))


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(model: Model) -> None:
    whole = text(ask(model, "What is the name", max_tokens=12, temperature=0.0))
    stop = whole[4:7]
    stopped = ask(model, "What is the name", max_tokens=12, temperature=0.0, stop=("never", stop))
    assert text(stopped) == whole[: whole.index(stop)]
    assert deltas(stopped)[-1].finish == "stop"


def test_an_end_of_turn_ends_an_answer(tiny: Path, spec: ModelSpec) -> None:
    engine = HFServingEngine(spec, ENGINE, {})
    ends = next(iter(engine._stop_ids))
    logits_V = torch.zeros(384)
    logits_V[ends] = 100.0
    engine._forward = lambda ids_BT, cache, adapter, keep: logits_V.expand(ids_BT.shape[0], 1, -1)  # type: ignore[method-assign]

    async def run() -> list[Event]:
        return [e async for e in engine.stream((5, 6), Sampling(max_tokens=4, temperature=0.0, logprobs=0), None)]

    delta = asyncio.run(run())[-1]
    assert isinstance(delta, Delta)
    assert (delta.text, delta.new_tokens, delta.finish) == ("", 1, "stop")
    assert [token.text for token in delta.tokens] == ["<|im_end|>"]


@pytest.mark.parametrize(
    ("length", "max_tokens", "message"),
    [
        (41, 1, "the prompt has 41 tokens; this model takes up to 40"),
        (40, 21, "max_tokens is 21; this server generates up to 20"),
    ],
)
def test_limits(model: Model, length: int, max_tokens: int, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        ask(model, (5,) * length, max_tokens=max_tokens)


@pytest.mark.parametrize(
    "prompt", ["x" * 641, Chat((("user", "x" * 600), ("user", "x" * 41))), Quiz("x" * 600, "x" * 20, "x" * 21)]
)
def test_a_prompt_that_cannot_fit_is_never_tokenised(prompt: Prompt) -> None:
    """At 16 characters for each of 40 tokens."""

    def render(_: Prompt) -> Any:
        pytest.fail("it was")

    model = Model(SimpleNamespace(context=64), render, 40, 20)  # type: ignore[arg-type]
    with pytest.raises(ApiError, match="the prompt has 641 characters; this model takes up to 40 tokens") as raised:
        ask(model, prompt)
    assert (raised.value.status, raised.value.code) == (400, "context_length_exceeded")


def test_a_replica_sends_the_first_token_with_the_prompts_length(model: Model) -> None:
    """What it streams is what it answers whole, the first two events in one message."""

    async def run() -> None:
        replica = Replica.__new__(Replica)
        replica._model = model
        for n in (1, 2):
            asked = ("Where", Sampling(max_tokens=4, temperature=0.0, n=n), None)
            opening, *rest = [message async for message in replica.stream(*asked)]
            assert isinstance(opening, Opening)
            assert [*opening, *rest] == await replica.complete(*asked)

    asyncio.run(run())


def test_the_room_behind_the_prompt(tiny: Path, spec: ModelSpec) -> None:
    roomy = Model.load(Loading(spec, ENGINE, {}, prompt_tokens=1000, new_tokens=1000))
    with pytest.raises(ApiError, match="together they exceed the context of 64 tokens"):
        ask(roomy, (5,) * 60, max_tokens=5)
    with pytest.raises(ApiError, match="the prompt has 64 tokens; this model takes up to 63"):
        ask(roomy, (5,) * 64, max_tokens=1)
    assert sum(d.new_tokens for d in deltas(ask(roomy, (5,) * 60, temperature=0.0))) <= 4


def test_a_damaged_model_is_not_served(tiny: Path, tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as folder:
        shutil.copytree(tiny, folder, dirs_exist_ok=True)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    loading = Loading(ModelSpec(source=str(tmp_path / "model")), ENGINE, {}, prompt_tokens=40, new_tokens=20)
    with pytest.raises(UserError, match=r"model\.safetensors: is not as it was written; restore it, or make the model"):
        Model.load(loading)


@pytest.fixture(scope="module")
def tokenizer(spec: ModelSpec) -> Any:
    return load_tokenizer(spec)


@given(
    ids=st.lists(st.integers(3, 383), max_size=30),
    stops=st.lists(st.text("abe .", min_size=1, max_size=3), max_size=2),
)
def test_growing_text_is_the_whole_text_up_to_the_first_stop(tokenizer: Any, ids: list[int], stops: list[str]) -> None:
    """The first stop text to be complete ends it."""
    growing = GrowingText(tokenizer, (), stops)
    pieces = []
    for token in ids:
        pieces.append(growing.add(token))
        if growing.stopped:
            break
    else:
        pieces.append(growing.rest())
    plain = GrowingText(tokenizer, (), ())
    whole, kept = "", None
    for token in ids:
        whole += plain.add(token)
        if kept is None and (ends := [whole.index(stop) for stop in stops if stop in whole]):
            kept = whole[: min(ends)]
    assert growing.stopped == (kept is not None)
    assert "".join(pieces) == (whole if kept is None else kept)


def test_a_lent_model_is_put_away_when_nobody_uses_it() -> None:
    class Engine:
        context, dead, closed = 8, False, False

        async def stream(self, *arguments: Any) -> AsyncIterator[Event]:
            yield Prompted(1)

        def close(self) -> None:
            self.closed = True

    engine = Engine()
    lent = Lent(Model(engine, lambda prompt: ((1,), 1), 8, 8))  # type: ignore[arg-type]
    import threading

    with lent.use(), lent.use():
        thread = threading.Thread(target=lent.__del__)
        thread.start()
        assert not engine.closed
    thread.join(10)
    assert engine.closed


def on_demand(start_s: float, lend: Any) -> Any:
    """A replica for models on demand, without Ray Serve's cache of them."""
    kind = on_demand_replica(1)
    replica = kind.__new__(kind)
    replica._start_s, replica._loading, replica._lend = start_s, set(), lend
    return replica


def test_a_model_that_does_not_load_is_waited_for_no_longer_than_the_limit() -> None:
    """It goes on loading for the next request."""

    async def run() -> None:
        loaded, lent = asyncio.Event(), Lent(Model(SimpleNamespace(context=8, close=lambda: None), None, 8, 8))  # type: ignore[arg-type]
        times = 0

        async def lend(name: str) -> Lent:
            nonlocal times
            times += 1
            await loaded.wait()
            return lent

        replica = on_demand(0.05, lend)
        with pytest.raises(ApiError, match=r"not loaded within 0.05 s; it may be loading still") as raised:
            await replica._lent("rare")
        assert (raised.value.status, raised.value.retry_after_s) == (503, 10)
        (loading,) = replica._loading
        loaded.set()
        assert await loading is lent
        assert await replica._lent("rare") is lent
        assert times == 2

    asyncio.run(run())


def test_why_a_model_does_not_load_is_no_clients_business() -> None:
    async def lend(name: str) -> Lent:
        raise UserError("model.source: /secret/model: no such file or folder")

    with pytest.raises(ApiError) as raised:
        asyncio.run(on_demand(5.0, lend)._lent("rare"))
    assert raised.value.reason == "model.source: /secret/model: no such file or folder"
    assert "secret" not in str(raised.value.body)


def test_nan_is_no_number() -> None:
    from obliviate_serve.hf import _number

    assert _number(float("nan")) is None
    assert _number(-1.5) == -1.5
    assert Token("x", None, None, ()).logp is None


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_that_vllm_cannot_take(tmp_path: Path, modules: Any) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "target_modules": modules}))
    with pytest.raises(UserError, match=r"models.mine: target_modules=.*; set engine.type=hf"):
        _lora({"mine": str(tmp_path)})


def test_adapters_of_experts_are_merged_for_vllm(tmp_path: Path) -> None:
    config = {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["model.layers.0.mlp.experts.down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"^models\.mine: .* train with model\.lora\.merge=true and serve the whole model"
    ):
        _lora({"mine": str(tmp_path)})


def test_vllms_settings_for_adapters(tmp_path: Path) -> None:
    """The rank is rounded up to a power of two, 8 at least; the layers are those of any adapter."""
    for name, rank, modules in (("a", 4, ["q_proj"]), ("b", 9, ["v_proj", "q_proj"])):
        (tmp_path / name).mkdir()
        config = {"r": rank, "target_modules": modules}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    one = _lora({"a": str(tmp_path / "a")})
    both = _lora({"a": str(tmp_path / "a"), "b": str(tmp_path / "b")})
    assert (one["max_lora_rank"], one["lora_target_modules"]) == (8, ["q_proj"])
    assert (both["max_lora_rank"], both["max_loras"], both["lora_target_modules"]) == (16, 3, ["q_proj", "v_proj"])
    assert _lora({}) == {}
