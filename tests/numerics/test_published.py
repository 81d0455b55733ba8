"""Options that reproduce published code, against that code's formulas written out; docs/published.md has the table."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from obliviate.data.text import TextEncoder
from obliviate.methods import NPO, Pass, Wasserstein
from obliviate.scoring import Stat, TokenScores
from obliviate.train.initial import directions
from tiny import tiny_tokenizer


def published_distance(initial_ND: Tensor, weight_ND: Tensor, directions_KD: Tensor) -> Tensor:
    """Opt-Out's code: a bfloat16 copy of the initial weights, and everything after the projections in bfloat16."""
    copy_ND = initial_ND.bfloat16()
    kept_NK = (copy_ND @ directions_KD.T.bfloat16()).sort(dim=0).values
    moved_NK = (weight_ND @ directions_KD.T).sort(dim=0).values
    return ((kept_NK - moved_NK.bfloat16()).abs() ** 2).sum(dim=0).mean()


@pytest.mark.parametrize(("move", "exact_differs"), [(1e-4, 0.8), (1e-3, 0.25), (1e-2, 0.06)])
def test_the_rounded_distance_is_that_of_published_code(move: float, exact_differs: float) -> None:
    """Its gradient to the last bit, its value to bfloat16's own rounding; in float32 the gradient differs by the more
    the less the weights of 0.05 have moved."""
    generator = torch.Generator().manual_seed(0)
    initial_ND = torch.randn(576, 192, generator=generator) * 0.05
    weight_ND = initial_ND + torch.randn(576, 192, generator=generator) * move
    drawn_KD = directions(100, 192, (0,))

    def value_and_gradient(penalty: Any) -> tuple[float, Tensor]:
        now_ND = weight_ND.clone().requires_grad_()
        value = penalty(initial_ND, now_ND, drawn_KD)
        return float(value.detach()), torch.autograd.grad(value, now_ND)[0]

    value, gradient_ND = value_and_gradient(published_distance)
    ours, our_gradient_ND = value_and_gradient(Wasserstein(precision="bfloat16").penalty)
    assert ours == pytest.approx(value, rel=2**-8)
    torch.testing.assert_close(our_gradient_ND, gradient_ND, rtol=0, atol=0)
    _, exact_ND = value_and_gradient(Wasserstein().penalty)
    assert float((exact_ND - gradient_ND).norm() / gradient_ND.norm()) > exact_differs


def test_npo_of_a_batch_of_opt_out_begins_as_that_of_tokens_and_not_as_that_of_means() -> None:
    """Opt-Out's code has one log-ratio a micro-batch, of the mean over its tokens. With answers of 5, 10, 20 and 45
    tokens a token of the first weighs as much as any other there (1/80), and 4 times as much (1/20) by `mean`."""
    lengths = torch.tensor([5, 10, 20, 45])
    answer_BT = torch.arange(45) < lengths[:, None]
    reference_BT = torch.where(answer_BT, torch.randn(4, 45, generator=torch.Generator().manual_seed(0)) - 2, 0.0)

    def gradient_BT(loss: Any) -> Tensor:
        logp_BT = reference_BT.clone().requires_grad_()
        return torch.autograd.grad(loss(logp_BT), logp_BT)[0]

    def published(logp_BT: Tensor) -> Tensor:
        log_ratio = ((logp_BT - reference_BT) * answer_BT).sum() / answer_BT.sum()
        return -2 / 0.1 * F.logsigmoid(-0.1 * log_ratio)

    def ours(reduction: Any) -> Any:
        def loss(logp_BT: Tensor) -> Tensor:
            scores = [TokenScores({Stat.LOGP: each}, answer_BT, answer_BT) for each in (logp_BT, reference_BT)]
            found = NPO(beta=0.1, reduction=reduction).loss(
                dict(zip((Pass.FORGET, Pass.REFERENCE_FORGET), scores, strict=True))
            )
            return found.sum / found.count

        return loss

    torch.testing.assert_close(gradient_BT(ours("token")), gradient_BT(published))
    assert gradient_BT(published)[0, 0] == pytest.approx(1 / 80)
    assert gradient_BT(ours("mean"))[0, 0] == pytest.approx(1 / 20)
    assert gradient_BT(ours("mean"))[3, 0] == pytest.approx(1 / 180)


def test_openunlearning_scores_what_chatml_writes_behind_an_answer_and_a_second_end() -> None:
    """Its labels are everything behind the prompt, and an end of turn where the conversation does not end with one:
    here a line break does. Ours end with the turn."""
    tokenizer = tiny_tokenizer()
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    whole = tokenizer.apply_chat_template(chat, return_dict=False)
    prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False)
    published = [*whole, tokenizer.eos_token_id][len(prompt) :]
    ours = TextEncoder(tokenizer).encode("Who?", "Ada.")
    assert list(ours.input_ids[: ours.prompt_length]) == prompt
    assert tokenizer.convert_ids_to_tokens(published[len(ours.answer_ids) :]) == ["Ċ", "<|im_end|>"]
    assert published[: len(ours.answer_ids)] == list(ours.answer_ids)


def test_openunlearning_never_scores_the_first_token_behind_a_space() -> None:
    """Its prompt ends with a space that the tokenizer joins to the answer: its last token is the answer's first one."""
    tokenizer = tiny_tokenizer()
    asked = "Question: Who?\nAnswer: "
    whole, prompt = (tokenizer(text)["input_ids"] for text in (f"{asked}Ada Lovelace.", asked))
    ours = TextEncoder(tokenizer, chat_template="plain").encode("Who?", "Ada Lovelace.")
    assert list(ours.input_ids[:-1]) == whole
    assert ours.prompt_length == len(prompt) - 1
    assert tokenizer.decode(whole[len(prompt) :]) != " Ada Lovelace."
    assert tokenizer.decode(ours.answer_ids[:-1]) == " Ada Lovelace."
