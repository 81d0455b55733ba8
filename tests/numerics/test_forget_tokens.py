"""Objectives that choose among a text's tokens, by hand and at their limits."""

import pytest
import torch
from test_methods import mean

from obliviate.methods import MASC, SHRED, UNDIAL, Pass, Positions, Scores
from obliviate.methods.shred import least
from obliviate.scoring import AnyStat, Distilled, Stat, TokenScores

LOWERED, HELD = Distilled("reference", 10.0, 100), Distilled("reference", 0.0, 100)


def of(answer_BT: list[list[int]], stats: dict[AnyStat, list[list[float]]]) -> TokenScores:
    answer = torch.tensor(answer_BT, dtype=torch.bool)
    sequence = torch.ones_like(answer)
    sequence[:, 0] = False
    return TokenScores({stat: torch.tensor(values) for stat, values in stats.items()}, answer, sequence)


# A text of six tokens whose last four are the answer; the starting model found its second and its last least likely.
ANSWER = [[0, 0, 1, 1, 1, 1]]
SCORES: Scores = {
    Pass.FORGET: of(ANSWER, {LOWERED: [[0, 20, 30, 40, 50, 60.0]], HELD: [[0, 2, 3, 4, 5, 6.0]]}),
    Pass.REFERENCE_FORGET: of(ANSWER, {Stat.LOGP: [[0, 0, -1, -4, -0.5, -3.0]]}),
}


class TestSHRED:
    @pytest.mark.parametrize(
        ("options", "total", "tokens"),
        [
            ({"share": 0.5}, 2 + 3 + 40 + 5 + 60, 5),
            ({"share": 0.25}, 2 + 3 + 40 + 5 + 6, 5),
            ({"share": 0.01}, 2 + 3 + 40 + 5 + 6, 5),  # one at least
            ({"share": 0.5, "positions": Positions.ANSWER}, 3 + 40 + 5 + 60, 4),
            ({"share": 0.5, "skip": 2}, 2 + 3 + 4 + 5 + 60, 5),  # one of the two that are left
            ({"share": 1, "skip": 4}, 2 + 3 + 4 + 5 + 6, 5),
        ],
    )
    def test_by_hand(self, options: dict[str, float], total: float, tokens: int) -> None:
        loss = SHRED.model_validate(options).loss(SCORES)
        assert (float(loss.sum), float(loss.count)) == (total, tokens)

    def test_of_all_answer_tokens_and_all_of_the_vocabulary_it_is_undial(self) -> None:
        undial = {Pass.FORGET: of(ANSWER, {Distilled("reference", 10.0): [[0, 20, 30, 40, 50, 60.0]]})}
        assert mean(SHRED(share=1, positions=Positions.ANSWER), SCORES) == mean(UNDIAL(), undial) == 45

    def test_each_text_gives_its_own_share(self) -> None:
        """Of four tokens two, of three two (rounded up), of none none; of equal ones the first."""
        values = torch.tensor([[-9.0, -1, -2, -3, -4], [0, 0, -5, -5, -5], [-1, -1, -1, -1, -1]])
        mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
        expected = [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
        assert least(values, mask, 0.5).int().tolist() == expected

    def test_a_share_is_not_rounded_up_by_the_rounding_of_numbers(self) -> None:
        values, mask = torch.arange(30.0)[None], torch.ones(1, 30, dtype=torch.bool)
        assert [int(least(values, mask, share).sum()) for share in (0.1, 0.2, 0.3, 0.7)] == [3, 6, 9, 21]


class TestMASC:
    def test_by_hand(self) -> None:
        """Margins of 2, -1 and 3 nats; the prompt's does not count."""
        stats: dict[AnyStat, list[list[float]]] = {
            Stat.LOGP: [[0, 0.0, -1, -3, -0.5]], Stat.RIVAL: [[0, -9.0, -3, -2, -3.5]],
        }  # fmt: skip
        assert mean(MASC(), {Pass.FORGET: of([[0, 0, 1, 1, 1]], stats)}) == pytest.approx((2 + 0 + 3) / 3)

    def test_a_token_that_is_no_longer_the_likeliest_is_not_pulled(self) -> None:
        logp = torch.tensor([[0.0, -1.0, -2.0]], requires_grad=True)
        rival = torch.tensor([[0.0, -2.0, -1.0]], requires_grad=True)
        answer = torch.tensor([[False, True, True]])
        scores = {Pass.FORGET: TokenScores({Stat.LOGP: logp, Stat.RIVAL: rival}, answer, answer)}
        MASC().loss(scores).sum.backward()
        assert logp.grad is not None
        assert rival.grad is not None
        assert (logp.grad.tolist(), rival.grad.tolist()) == ([[0, 1, 0]], [[0, -1, 0]])
