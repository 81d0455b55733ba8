"""The Hugging Face engine against the bare model: what it batches, pads and cuts must not show in its answers."""

from itertools import pairwise
from math import isnan, log
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.hf import HFEngine, sample
from obliviate.inference.limits import by_prompt, request_seed, room
from obliviate.inference.reader import batches
from obliviate.models import load_pretrained, stop_ids
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from tiny import tiny_model_folder

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
FLOAT32 = EngineSpec(dtype="float32")
SAMPLING = GenerationSpec(max_new_tokens=6, temperature=1.0, samples=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)


def engine_of(loaded: Loaded, spec: EngineSpec = FLOAT32, stop: int = -1) -> HFEngine:
    return HFEngine(*loaded, spec, {stop})


def texts() -> list[Encoded]:
    """Answers of 1 to 40 tokens behind prompts of 1 to 30: no two lengths alike."""
    random = Random(0)
    lengths = [(1, 40), (30, 1), (7, 13), (12, 3), (20, 9)]
    return [Encoded(tuple(random.choices(range(3, 300), k=p + a)), p) for p, a in lengths]


def prompts() -> list[tuple[int, ...]]:
    return [text.prompt_ids for text in texts()]


def test_score_is_the_log_softmax_of_the_model(loaded: Loaded) -> None:
    (text,) = texts()[2:3]
    with torch.inference_mode():
        logits_TV = loaded[0](torch.tensor([text.input_ids])).logits[0]
    logp_TV = logits_TV.log_softmax(-1)
    # The token at position t is predicted at t - 1.
    expected = [logp_TV[t - 1, text.input_ids[t]].item() for t in range(7, 20)]
    argmax = [logits_TV[t - 1].argmax().item() == text.input_ids[t] for t in range(7, 20)]
    (scored,) = engine_of(loaded).score([text])
    assert scored.logp == pytest.approx(expected, abs=1e-5)
    assert list(scored.greedy) == argmax


def test_greedy_marks_what_greedy_generation_says(loaded: Loaded) -> None:
    engine = engine_of(loaded)
    prompt = prompts()[2]
    ((said,),) = engine.generate([prompt], GenerationSpec(max_new_tokens=5))
    other = (said.token_ids[4] + 1) % 300
    (scored,) = engine.score([Encoded((*prompt, *said.token_ids[:4], other), len(prompt))])
    assert scored.greedy == (True, True, True, True, False)


@pytest.mark.parametrize("batch_tokens", [64, 100, 4096])
def test_score_does_not_depend_on_the_batch(loaded: Loaded, batch_tokens: int) -> None:
    alone = [engine_of(loaded).score([text])[0] for text in texts()]
    together = engine_of(loaded, EngineSpec(dtype="float32", batch_tokens=batch_tokens)).score(texts())
    for one, other in zip(alone, together, strict=True):
        assert other.logp == pytest.approx(one.logp, abs=1e-5)
        assert other.greedy == one.greedy


def test_tokens_that_equal_the_padding_are_text(loaded: Loaded) -> None:
    padding, end = loaded[1].pad_token_id, loaded[1].eos_token_id
    text = Encoded((0, padding, 50, end, 60, padding, end), 4)
    with torch.inference_mode():
        logp_TV = loaded[0](torch.tensor([text.input_ids])).logits[0].log_softmax(-1)
    expected = [logp_TV[t - 1, text.input_ids[t]].item() for t in (4, 5, 6)]
    scored = engine_of(loaded).score([texts()[0], text])[1]
    assert scored.logp == pytest.approx(expected, abs=1e-5)


def test_an_empty_answer_has_no_scores(loaded: Loaded) -> None:
    scored = engine_of(loaded).score([Encoded((5, 6, 7), 3), texts()[0]])
    assert scored[0].logp == ()
    assert scored[0].greedy == ()
    assert len(scored[1].logp) == 40


def test_a_text_beyond_the_limit_is_refused(loaded: Loaded) -> None:
    spec = EngineSpec(dtype="float32", max_model_len=16)
    with pytest.raises(UserError, match=r"engine.max_model_len=16: a text of 17 tokens"):
        engine_of(loaded, spec).score([Encoded(tuple(range(17)), 3)])


@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_generation_is_that_of_the_model_one_by_one(loaded: Loaded, batch_tokens: int) -> None:
    model, tokenizer = loaded
    engine = engine_of(loaded, EngineSpec(dtype="float32", batch_tokens=batch_tokens))
    for prompt, generations in zip(
        prompts(), engine.generate(prompts(), GenerationSpec(max_new_tokens=12)), strict=True
    ):
        ids_1T = torch.tensor([prompt])
        reference_1T = model.generate(
            ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=12, do_sample=False, eos_token_id=-1
        )
        new = reference_1T[0, len(prompt) :].tolist()
        assert generations[0].token_ids == tuple(new)
        assert generations[0].text == tokenizer.decode(new, skip_special_tokens=True)
        assert not generations[0].finished


def test_generation_ends_before_the_end_of_turn(loaded: Loaded) -> None:
    free = [g.token_ids for (g,) in engine_of(loaded).generate(prompts(), GenerationSpec(max_new_tokens=12))]
    stop = free[2][4]
    stopped = engine_of(loaded, stop=stop).generate(prompts(), GenerationSpec(max_new_tokens=12))
    assert stopped[2][0].finished
    for (generation,), ids in zip(stopped, free, strict=True):
        # Each row goes on as if alone, however many rows left the batch before it.
        assert generation.token_ids == (ids[: ids.index(stop)] if stop in ids else ids)
        assert generation.finished == (stop in ids)


def test_limits_of_a_generation(loaded: Loaded) -> None:
    def lengths(spec: EngineSpec, sampling: GenerationSpec) -> list[int]:
        return [len(g.token_ids) for (g,) in engine_of(loaded, spec).generate(prompts(), sampling)]

    # Prompts of 1, 30, 7, 12 and 20 tokens.
    assert lengths(FLOAT32, GenerationSpec(max_new_tokens=9)) == [9, 9, 9, 9, 9]
    assert lengths(FLOAT32, GenerationSpec(max_new_tokens=None, max_length=21)) == [20, 0, 14, 9, 1]
    assert lengths(EngineSpec(dtype="float32", max_model_len=16), GenerationSpec(max_new_tokens=9)) == [9, 0, 9, 4, 0]


def test_the_models_positions_limit_a_generation(loaded: Loaded) -> None:
    ((generation,),) = engine_of(loaded).generate(
        [tuple(range(3, 300)) + tuple(range(3, 216))], SAMPLING.model_copy(update={"samples": 1})
    )  # 510 tokens of the model's 512
    assert len(generation.token_ids) == 2


def test_no_room_gives_empty_unfinished_generations(loaded: Loaded) -> None:
    sampling = GenerationSpec(max_new_tokens=None, max_length=30, samples=2)
    (generations,) = engine_of(loaded).generate([prompts()[1]], sampling)
    assert [(g.text, g.token_ids, g.finished) for g in generations] == [("", (), False)] * 2


def test_nothing_to_do(loaded: Loaded) -> None:
    assert engine_of(loaded).score([]) == []
    assert engine_of(loaded).generate([], SAMPLING) == []


def test_samples_belong_to_their_prompt(loaded: Loaded) -> None:
    sampling = GenerationSpec(max_new_tokens=None, max_length=45, temperature=1.0, samples=4)  # rows end one by one
    engine = engine_of(loaded)
    alone = [engine.generate([prompt], sampling)[0] for prompt in prompts()]
    assert engine.generate(prompts()[::-1], sampling)[::-1] == alone
    assert len({g.token_ids for g in alone[0]}) == 4
    assert engine.generate(prompts(), sampling.model_copy(update={"seed": 1})) != alone


def test_greedy_samples_are_all_the_same(loaded: Loaded) -> None:
    (generations,) = engine_of(loaded).generate([prompts()[0]], GenerationSpec(max_new_tokens=4, samples=3))
    assert len(generations) == 3
    assert generations[0] == generations[1] == generations[2]


def test_the_models_own_generation_defaults_are_not_applied(folder: Path) -> None:
    fresh = load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)
    before = engine_of(fresh).generate(prompts(), GenerationSpec(max_new_tokens=12))
    fresh[0].generation_config.repetition_penalty = 50.0
    assert engine_of(fresh).generate(prompts(), GenerationSpec(max_new_tokens=12)) == before


def test_a_collapsed_model_answers(folder: Path) -> None:
    collapsed = load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)
    for parameter in collapsed[0].parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    engine = engine_of(collapsed)
    assert all(isnan(logp) for scored in engine.score(texts()) for logp in scored.logp)
    assert [len(g.token_ids) for (g,) in engine.generate(prompts(), GenerationSpec(max_new_tokens=3))] == [3] * 5
    assert [len(g.token_ids) for g in engine.generate(prompts(), SAMPLING)[0]] == [6] * 4


def test_the_engine_opens_a_folder(folder: Path) -> None:
    engine = HFEngine.open(ModelSpec(source=str(folder)), EngineSpec())
    (scored,) = engine.score(texts()[:1])
    assert len(scored.logp) == 40


def test_stop_ids_are_the_turns_and_the_texts_end(folder: Path, loaded: Loaded) -> None:
    tokenizer = loaded[1]
    assert stop_ids(ModelSpec(source=str(folder)), tokenizer) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    # A template whose turns end otherwise than the tokenizer's texts.
    template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    assert stop_ids(ModelSpec(source=str(folder), chat_template=template), tokenizer) == {
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }


@pytest.mark.parametrize(
    ("uniform", "temperature", "top_p", "token"),
    [
        # p = .5, .3, .2: the distribution function steps at .5, .8 and 1.
        (0.0, 1.0, 1.0, 0),
        (0.49, 1.0, 1.0, 0),
        (0.51, 1.0, 1.0, 1),
        (0.81, 1.0, 1.0, 2),
        # temperature 1/2 squares p: .25, .09, .04 of .38 steps at .658, .895 and 1.
        (0.65, 0.5, 1.0, 0),
        (0.67, 0.5, 1.0, 1),
        (0.90, 0.5, 1.0, 2),
        # top_p .6 keeps .5 and .3 (before the third lie .8): steps at .625 and 1.
        (0.62, 1.0, 0.6, 0),
        (0.63, 1.0, 0.6, 1),
        (0.999, 1.0, 0.6, 1),
        # top_p .4 keeps the first alone.
        (0.999, 1.0, 0.4, 0),
    ],
)
def test_sample_by_hand(uniform: float, temperature: float, top_p: float, token: int) -> None:
    logits_BV = torch.tensor([[log(0.5), log(0.3), log(0.2)], [log(0.2), log(0.3), log(0.5)]])
    drawn_B = sample(logits_BV, torch.tensor([uniform, uniform]), temperature, top_p)
    assert drawn_B[0] == token
    if top_p < 1:  # the mirrored row: nucleus sampling goes by probability, not by place
        assert (drawn_B[1] == 0) == (token == 2)


def test_sample_of_nan_is_uniform() -> None:
    nan_BV = torch.full((2, 4), float("nan"))
    assert sample(nan_BV, torch.tensor([0.1, 0.6]), 1.0, 1.0).tolist() == [0, 2]


def test_a_draw_that_rounds_to_one_is_the_last_token() -> None:
    assert sample(torch.zeros(1, 3), torch.tensor([1.0]), 1.0, 1.0).tolist() == [2]


def test_sample_of_infinite_logits() -> None:
    logits_BV = torch.tensor([[float("-inf"), 0.0, float("-inf")], [0.0, float("inf"), 1.0]])
    assert sample(logits_BV, torch.tensor([0.999, 0.0]), 0.1, 0.9).tolist() == [1, 1]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.floats(0, 0.999), st.floats(0.1, 3))
def test_sample_inverts_the_distribution_function(logits: list[float], uniform: float, temperature: float) -> None:
    z_V = torch.tensor(logits)
    token = int(sample(z_V[None], torch.tensor([uniform]), temperature, 1.0))
    p_V = (z_V.double() / temperature).softmax(-1)
    assert p_V[:token].sum() <= uniform + 1e-6
    assert uniform <= p_V[: token + 1].sum() + 1e-6


@given(st.lists(st.integers(1, 200), max_size=40), st.integers(64, 500))
def test_batches_hold_every_index_within_the_budget(sizes: list[int], budget: int) -> None:
    made = list(batches(range(len(sizes))[::-1], sizes, budget))
    assert [i for batch in made for i in batch] == list(range(len(sizes)))[::-1]
    for batch in made:
        assert len(batch) * max(sizes[i] for i in batch) <= budget or len(batch) == 1


@pytest.mark.parametrize(
    ("prompt", "sampling", "limit", "expected"),
    [
        (10, GenerationSpec(max_new_tokens=5), 100, 5),
        (98, GenerationSpec(max_new_tokens=5), 100, 2),
        (100, GenerationSpec(max_new_tokens=5), 100, 0),
        (10, GenerationSpec(max_new_tokens=None, max_length=12), 100, 2),
        (13, GenerationSpec(max_new_tokens=None, max_length=12), 100, 0),
        (90, GenerationSpec(max_new_tokens=None, max_length=200), 100, 10),
    ],
)
def test_room(prompt: int, sampling: GenerationSpec, limit: int, expected: int) -> None:
    assert room(prompt, sampling, limit) == expected


def test_request_seed_is_of_the_prompt_and_the_seed() -> None:
    assert request_seed((1, 2, 3), 0) == request_seed([1, 2, 3], 0)
    assert len({request_seed(p, s) for p in [(1, 2), (12,), (1, 2, 0)] for s in (0, 1)}) == 6
    assert 0 <= request_seed((1,), 0) < 2**62


def answers_to_one_prompt() -> list[Encoded]:
    """Five answers to one prompt of 20 tokens, three to another of 4: in turns, as they may come."""
    random = Random(1)
    first, second = (tuple(random.choices(range(3, 300), k=n)) for n in (20, 4))
    answers = [tuple(random.choices(range(3, 300), k=n)) for n in (12, 1, 7, 3, 30)]
    texts_of = [Encoded(first + answer, 20) for answer in answers]
    return [text for i, text in enumerate(texts_of) for text in (text, Encoded(second + answers[i], 4))][:8]


@pytest.mark.parametrize("batch_tokens", [64, 150, 4096])
def test_answers_that_share_a_prompt_are_scored_as_if_alone(loaded: Loaded, batch_tokens: int) -> None:
    texts = answers_to_one_prompt()
    scored = engine_of(loaded, EngineSpec(dtype="float32", batch_tokens=batch_tokens)).moments(texts)
    for text, found in zip(texts, scored, strict=True):
        with torch.inference_mode():
            logp_TV = loaded[0](torch.tensor([text.input_ids])).logits[0].log_softmax(-1)
        predicting = range(text.prompt_length - 1, len(text.input_ids) - 1)
        p_TV = logp_TV.exp()
        mean_T = (p_TV * logp_TV).sum(-1)
        variance_T = (p_TV * logp_TV.square()).sum(-1) - mean_T.square()
        assert found.logp == pytest.approx([logp_TV[t, text.input_ids[t + 1]].item() for t in predicting], abs=1e-5)
        assert found.greedy == tuple(logp_TV[t].argmax().item() == text.input_ids[t + 1] for t in predicting)
        assert found.mean == pytest.approx([mean_T[t].item() for t in predicting], abs=1e-5)
        assert found.variance == pytest.approx([variance_T[t].item() for t in predicting], abs=1e-4)


def test_a_prompt_is_read_once_for_all_of_its_answers(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    decoder = loaded[0].get_decoder()
    forward = decoder.forward

    def counting(*arguments: object, **keywords: torch.Tensor) -> object:
        read.append(keywords["input_ids"].numel())
        return forward(*arguments, **keywords)

    monkeypatch.setattr(decoder, "forward", counting)
    prompt = tuple(range(3, 43))
    engine_of(loaded).score([Encoded((*prompt, i, 7, 8), 40) for i in range(5)])
    assert read == [40, 5 * 2]  # the prompt; of each answer all but its last token


def test_gradient_norm_is_that_of_the_mean_loss(loaded: Loaded) -> None:
    """L2 over all weights together, from the whole logits and a plain backward pass."""
    model, _ = loaded
    text = texts()[2]
    labels = torch.tensor([[-100] * text.prompt_length + list(text.answer_ids)])
    model.zero_grad()
    model(torch.tensor([text.input_ids]), labels=labels).loss.backward()
    expected = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
    model.zero_grad()
    found = engine_of(loaded).gradient_norms([text, Encoded((5, 6), 2), text])
    assert found[0] == pytest.approx(float(expected), rel=1e-4)
    assert found[1] is None
    assert found[2] == found[0]
    assert all(p.grad is None for p in model.parameters())


def test_a_collapsed_model_has_no_gradient_norm(folder: Path) -> None:
    collapsed = load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)
    for parameter in collapsed[0].parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    assert engine_of(collapsed).gradient_norms(texts()[2:3]) == [None]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=30))
def test_answers_to_one_prompt_stand_side_by_side_and_the_longest_text_first(lengths: list[tuple[int, int]]) -> None:
    texts = [Encoded(tuple(range(prompt)) + (0,) * answer, prompt) for prompt, answer in lengths]
    order = by_prompt(texts)
    assert sorted(order) == list(range(len(texts)))
    in_order = [texts[i] for i in order]
    runs = [a for a, b in pairwise(in_order) if a.prompt_length != b.prompt_length]
    assert len(runs) == max(0, len({text.prompt_length for text in texts}) - 1)
    assert not texts or len(in_order[0].input_ids) == max(len(text.input_ids) for text in texts)
