"""A suffix that is searched for: it stands behind the question, anybody can type it, and it makes answers likelier."""

from functools import cache
from itertools import islice

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from obliviate.data.rows import Row
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate_eval.inside.embedding import losses_B
from obliviate_eval.inside.suffix import (
    STARTS,
    Searching,
    asking,
    exchanged,
    gradient,
    places_of,
    spellable,
    suffixes,
)
from tiny import tiny_model_folder

ROWS = [
    Row("Where was Ann born?", "Ann was born in Oslo.", history=(("user", "Hello"), ("assistant", "Hello."))),
    Row("What did Ben write?", "Ben wrote a book."),
]
HOW = Searching(tokens=4, width=16, top=32, iterations=(6,), target_tokens=6, seed=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, TextEncoder]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_folder(tmp_path_factory.mktemp("tiny"))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), TextEncoder(tokenizer)


def test_the_suffix_stands_at_the_end_of_the_question(tiny: tuple[PreTrainedModel, TextEncoder]) -> None:
    _, encoder = tiny
    for row, place in zip(ROWS, places_of(encoder, ROWS, 3, 2), strict=True):
        text = encoder.tokenizer.decode(place.text.input_ids[: place.start])
        assert text.endswith(row.question)
        assert encoder.tokenizer.decode(place.text.input_ids[place.start :][:3]) in {start * 3 for start in STARTS}
        assert len(place.text.answer_ids) == 2
        other = encoder.encode(*asking(row, " or so!").saying(row.fact))
        ids = encoder.tokenizer(" or so!", add_special_tokens=False).input_ids
        if len(ids) == 3:
            assert place.holding(tuple(ids)).input_ids == other.input_ids[: len(place.text.input_ids)]
    assert asking(Row("", "A plain text."), " x") == Row("", "A plain text.")


def test_the_gradient_is_that_of_the_loss(tiny: tuple[PreTrainedModel, TextEncoder]) -> None:
    """By finite differences of a mixture of two embeddings at one place of the suffix, in plain transformers."""
    model, encoder = tiny
    places = places_of(encoder, ROWS, 4, 6)
    suffix = places[0].text.input_ids[places[0].start :][:4]
    gradient_KV = gradient(model, places, suffix, 4096)
    table_VD = model.get_input_embeddings().weight.detach()

    def loss(at: int, token: int, share: float) -> float:
        total = 0.0
        for place in places:
            ids = place.holding(suffix).input_ids
            embedded_TD = table_VD[list(ids)].clone()
            embedded_TD[place.start + at] += share * table_VD[token]
            with torch.no_grad():
                logp_TV = model(inputs_embeds=embedded_TD[None]).logits[0].double().log_softmax(-1)
            first = place.text.prompt_length
            total -= sum(float(logp_TV[i - 1, ids[i]]) for i in range(first, len(ids)))
        return total

    for at, token in ((0, 7), (3, 100), (2, 41)):
        slope = (loss(at, token, 1e-2) - loss(at, token, -1e-2)) / 2e-2
        assert float(gradient_KV[at, token]) == pytest.approx(slope, rel=2e-2, abs=2e-4)


def test_candidates_differ_in_one_place_by_a_token_that_the_gradient_favours() -> None:
    gradient_KV = torch.tensor([[3.0, -2.0, -1.0, 0.0, -9.0], [0.0, -5.0, 1.0, -1.0, -9.0]])
    allowed_V = torch.tensor([True, True, True, True, False])  # the last is no text, whatever its gradient
    found = exchanged((1, 3), gradient_KV, allowed_V, 2, 100, torch.Generator().manual_seed(0))
    # At the first place 1 itself is barred: 2, then 3; at the second 3 itself: 1, then 0.
    assert set(found) == {(2, 3), (3, 3), (1, 1), (1, 0)}
    assert len(found) == 4


def test_the_search_lowers_the_loss_and_what_it_finds_can_be_typed(tiny: tuple[PreTrainedModel, TextEncoder]) -> None:
    model, encoder = tiny

    @cache
    def loss(suffix: str) -> float:
        texts = []
        for row in ROWS:
            text = encoder.encode(*asking(row, suffix).saying(row.fact))
            texts.append(type(text)(text.input_ids[: text.prompt_length + 6], text.prompt_length))
        return float(losses_B(model, texts).sum())

    found = list(islice(suffixes(model, encoder, ROWS, HOW, 4096), 6))
    start = encoder.tokenizer.decode(places_of(encoder, ROWS, 4, 6)[0].holding(()).input_ids)
    [begins] = [each * 4 for each in STARTS if ROWS[0].question + each * 4 in start][:1]
    losses = [loss(begins), *map(loss, found)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert found == list(islice(suffixes(model, encoder, ROWS, HOW, 64), 6))  # batches change nothing


def test_no_control_token_and_no_part_of_a_letter_is_tried(tiny: tuple[PreTrainedModel, TextEncoder]) -> None:
    model, encoder = tiny
    allowed_V = spellable(encoder, model.get_input_embeddings().weight.shape[0])
    assert not allowed_V[list(encoder.tokenizer.all_special_ids)].any()
    assert allowed_V.any()
    for token in allowed_V.nonzero().flatten().tolist():
        assert encoder.tokenizer.decode([token]).isprintable()
    assert len(spellable(encoder, 10_000)) == 10_000  # embeddings that are no token
    assert not spellable(encoder, 10_000)[len(encoder.tokenizer) :].any()


def test_a_tokenizer_that_joins_the_beginning_is_told(
    tiny: tuple[PreTrainedModel, TextEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obliviate_eval.inside.suffix.STARTS", (" !?",))
    with pytest.raises(UserError, match=r"^attacks: gcg: the model's tokenizer joins repeated"):
        places_of(tiny[1], ROWS, 4, 6)
