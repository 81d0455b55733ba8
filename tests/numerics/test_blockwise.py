"""The blocked statistics against the plain formulas on whole logits: values, gradients, limits, invariances."""

from math import exp, inf, log
from typing import Any

import pytest
import torch
from torch import Tensor

from obliviate import blockwise
from obliviate.blockwise import score_positions, token_statistics
from obliviate.head import GenericHead, Head, SteeredHead
from obliviate.scoring import Distilled, Generic, Stat, Steered, TokenStat

N, D, V = 7, 5, 11
LOWERED, WITHOUT = Distilled("reference", 2.5), Distilled("self", inf)
GENERIC, TOP, STEERED = Generic(5.0), Distilled("reference", 1.5, top=3), Steered("a", "b", 2.0)
STATS: list[TokenStat] = [*Stat, LOWERED, WITHOUT, GENERIC, TOP, STEERED]


def plain(hidden_ND: Tensor, labels_N: Tensor, head: Head, reference: tuple[Tensor, Head]) -> dict[TokenStat, Tensor]:
    """By definition, with every logit held."""
    z_NV, reference_z_NV = head.logits(hidden_ND), reference[1].logits(reference[0])
    logp_NV = z_NV.log_softmax(-1)
    q_NV = reference_z_NV.log_softmax(-1)
    true_NV = torch.nn.functional.one_hot(labels_N, V).bool()
    lowered_NV = (reference_z_NV - 2.5 * true_NV).softmax(-1)
    m_NV = ((logp_NV.exp() + q_NV.exp()) / 2).log()
    cut_NV = reference_z_NV - 1.5 * true_NV
    top_NV = cut_NV.masked_fill(cut_NV < cut_NV.sort(-1, descending=True).values[:, 2:3], -inf).softmax(-1)
    without_NV = z_NV.detach().masked_fill(true_NV, -inf).softmax(-1)
    return {
        LOWERED: -(lowered_NV * logp_NV).sum(-1),
        STEERED: -(q_NV.exp() * logp_NV).sum(-1),  # of whatever the reference's head makes
        TOP: -(top_NV * logp_NV).sum(-1),
        GENERIC: logp_NV.gather(-1, reference_z_NV.argmax(-1)[:, None])[:, 0],
        WITHOUT: -(without_NV * logp_NV).sum(-1),
        Stat.LOGIT_GAP: z_NV.amax(-1) - z_NV.mean(-1),
        Stat.LOGP: logp_NV.gather(-1, labels_N[:, None])[:, 0],
        Stat.ENTROPY: -(logp_NV.exp() * logp_NV).sum(-1),
        Stat.UNIFORM_KL: -log(V) - logp_NV.mean(-1),
        Stat.REFERENCE_JS: ((q_NV.exp() * (q_NV - m_NV)).sum(-1) + (logp_NV.exp() * (logp_NV - m_NV)).sum(-1)) / 2,
        Stat.RIVAL: logp_NV.masked_fill(true_NV, -inf).amax(-1),
        Stat.LOG_VOCABULARY: log(V) + 0 * z_NV.sum(-1),
        Stat.REFERENCE_KL: (q_NV.exp() * (q_NV - logp_NV)).sum(-1),
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 4 * N * 4)  # four columns a block: the last is partial


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kept_bytes", [0, 4 * N * V])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(
    "stats", [*({stat} for stat in STATS), set(STATS)], ids=lambda s: "+".join(sorted(map(str, s)))
)
def test_values_and_gradients_equal_the_plain_formulas(
    stats: set[TokenStat], softcap: float | None, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "KEPT_BYTES", kept_bytes)
    torch.manual_seed(0)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    bias = torch.randn(V, requires_grad=True)
    labels = torch.randint(0, V, (N,))
    head = Head(weight, bias, scale=0.7, softcap=softcap)
    reference = (torch.randn(N, 4), Head(torch.randn(V, 4)))
    upstream = {stat: torch.randn(N) for stat in STATS}
    found = token_statistics(hidden, labels, head, stats, reference)
    expected = plain(hidden, labels, head, reference)
    for stat in stats:
        torch.testing.assert_close(found[stat], expected[stat], rtol=1e-5, atol=1e-5)
    gradients = [
        torch.autograd.grad(torch.stack([(values[s] * upstream[s]).sum() for s in stats]).sum(), [hidden, weight, bias])
        for values in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("kept_bytes", "trained", "products"), [(2 * N * V, True, 3), (2 * N * V - 1, True, 6), (2 * N * V, False, 3)]
)
def test_small_logits_are_kept_for_the_backward_pass(
    kept_bytes: int, trained: bool, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three blocks of eleven columns in bfloat16, each a product forward, and one backward where they are large."""
    made: list[Tensor] = []
    product = Head.product

    def counted(head: Head, hidden_ND: Tensor) -> Tensor:
        made.append(product(head, hidden_ND))
        return made[-1]

    monkeypatch.setattr(Head, "product", counted)
    monkeypatch.setattr(blockwise, "KEPT_BYTES", kept_bytes)
    hidden, head = torch.randn(N, D), Head(torch.randn(V, D).bfloat16().requires_grad_())
    with torch.set_grad_enabled(trained):
        logp_N = token_statistics(hidden, torch.zeros(N, dtype=torch.long), head, {Stat.LOGP})[Stat.LOGP]
    if trained:
        logp_N.sum().backward()
    assert len(made) == products


@pytest.mark.parametrize("columns", range(1, V + 1))
def test_the_width_of_a_block_changes_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to blocks of one token, the true one among them, which a teacher may leave out."""
    torch.manual_seed(0)
    hidden, labels = torch.randn(N, D, requires_grad=True), torch.randint(0, V, (N,))
    head, reference = Head(torch.randn(V, D, requires_grad=True)), (torch.randn(N, 4), Head(torch.randn(V, 4)))

    def found(width: int) -> list[Tensor]:
        monkeypatch.setattr(blockwise, "BLOCK_BYTES", 4 * N * width)
        values = list(token_statistics(hidden, labels, head, set(STATS), reference).values())
        return [*values, *torch.autograd.grad(torch.stack(values).sum(), [hidden, head.weight_VD])]

    for ours, whole in zip(found(columns), found(V), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 4 * N * columns)


def test_gradients_of_a_bfloat16_head_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's as a whole product would be; the hidden states' are summed over blocks in float32."""
    torch.manual_seed(0)
    exact_h, exact_w = torch.randn(N, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64)
    hidden, weight = (each.bfloat16().requires_grad_() for each in (exact_h, exact_w))
    labels = torch.randint(0, V, (N,))
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 4 * N * 4)
    token_statistics(hidden, labels, Head(weight), {Stat.LOGP})[Stat.LOGP].sum().backward()
    h, w = (each.detach().double().requires_grad_() for each in (hidden, weight))
    (h @ w.T).log_softmax(-1).gather(-1, labels[:, None]).sum().backward()
    for ours, theirs in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert ours is not None
        assert theirs is not None
        # 8 significant bits of logits, of their gradient and of the result: 3 roundings of 2^-9, on sums of a few terms
        torch.testing.assert_close(ours.double(), theirs, rtol=0.02, atol=0.02)


def test_the_generic_prediction_takes_away_what_was_reinforced() -> None:
    """Logits (3, 2, 1) by the model and (3.5, 1, 1.1) after it has learned more: 3 - 5 * 0.5, 2, 1 - 5 * 0.1."""
    model, reinforced = Head(torch.tensor([[3.0], [2.0], [1.0]])), Head(torch.tensor([[3.5], [1.0], [1.1]]))
    head, hidden_ND = GenericHead(model, reinforced, alpha=5.0), torch.ones(1, 2)
    torch.testing.assert_close(head.logits(hidden_ND), torch.tensor([[0.5, 2.0, 0.5]]))
    blocks = [head.block(slice(first, first + 2)).logits(hidden_ND) for first in (0, 2)]
    torch.testing.assert_close(torch.cat(blocks, -1), head.logits(hidden_ND))
    label = torch.zeros(1, dtype=torch.long)  # the true token is not the likeliest of the generic prediction
    trained = Head(torch.tensor([[0.0], [log(3)], [0.0]]))
    found = token_statistics(torch.ones(1, 1), label, trained, {GENERIC}, (hidden_ND, head))
    assert float(found[GENERIC]) == pytest.approx(log(3 / 5))


def test_limits_of_a_uniform_and_of_a_certain_model() -> None:
    labels = torch.zeros(1, dtype=torch.long)
    uniform = token_statistics(
        torch.zeros(1, D), labels, Head(torch.randn(V, D)), {Stat.LOGP, Stat.ENTROPY, Stat.UNIFORM_KL}
    )
    assert float(uniform[Stat.LOGP]) == pytest.approx(-log(V))
    assert float(uniform[Stat.ENTROPY]) == pytest.approx(log(V))
    assert float(uniform[Stat.UNIFORM_KL]) == pytest.approx(0, abs=1e-6)
    certain = Head(torch.eye(V)[:, :1] * 50)  # logit 50 for token 0, 0 for the others
    sure = token_statistics(torch.ones(1, 1), labels, certain, {Stat.ENTROPY, Stat.UNIFORM_KL})
    assert float(sure[Stat.ENTROPY]) == pytest.approx(0, abs=1e-6)
    # logsumexp = 50, mean = 50/11
    assert float(sure[Stat.UNIFORM_KL]) == pytest.approx(50 - 50 / V - log(V), rel=1e-5)


def test_kl_to_itself_vanishes_with_its_gradient() -> None:
    hidden, head = torch.randn(N, D, requires_grad=True), Head(torch.randn(V, D))
    labels = torch.zeros(N, dtype=torch.long)
    kl = token_statistics(hidden, labels, head, {Stat.REFERENCE_KL}, (hidden.detach(), head))[Stat.REFERENCE_KL]
    kl.sum().backward()
    assert hidden.grad is not None
    assert kl.abs().max() < 1e-5
    assert hidden.grad.abs().max() < 1e-5


def test_distilled_statistics_by_hand() -> None:
    """Three tokens with logits (2, 1, 0), the true one first; a reference that holds them equal."""
    head = Head(torch.tensor([[2.0], [1.0], [0.0]]))
    reference = (torch.ones(1, 1), Head(torch.zeros(3, 1)))
    stats: set[TokenStat] = {Distilled("reference", log(4)), Distilled("reference", inf), WITHOUT, Stat.LOGIT_GAP}
    found = token_statistics(torch.ones(1, 1), torch.zeros(1, dtype=torch.long), head, stats, reference)
    total = log(exp(2) + exp(1) + 1)  # -log p = total - logit
    # logits (-log 4, 0, 0): odds 1/4 : 1 : 1, probabilities 1/9, 4/9, 4/9
    expected = ((total - 2) + 4 * (total - 1) + 4 * total) / 9
    assert float(found[Distilled("reference", log(4))]) == pytest.approx(expected, rel=1e-6)
    assert float(found[Distilled("reference", inf)]) == pytest.approx((total - 1 + total) / 2, rel=1e-6)
    # without the true token the model's own odds are e : 1
    expected = (exp(1) * (total - 1) + total) / (exp(1) + 1)
    assert float(found[WITHOUT]) == pytest.approx(expected, rel=1e-6)
    assert float(found[Stat.LOGIT_GAP]) == pytest.approx(2 - 1)  # max 2, mean 1


def test_steered_logits_by_hand() -> None:
    """States 1, 2 and 3 of one dimension, two tokens of weights 1 and -2: ten times 2 - 3 is added to 1."""
    head, hidden_ND = SteeredHead(Head(torch.tensor([[1.0], [-2.0]])), eta=10.0), torch.tensor([[1.0, 2.0, 3.0]])
    assert head.logits(hidden_ND).tolist() == [[1 - 10, -2 + 20]]
    assert head.block(slice(1, 2)).logits(hidden_ND).tolist() == [[18]]


def test_a_teacher_cut_to_its_likeliest_tokens_by_hand() -> None:
    """Four equally likely tokens for the model; the reference's logits are (3, 2, 1, 0), the true one first. Lowered by
    1.5 it is second of (1.5, 2, 1, 0): of two tokens it has the odds e^-0.5, and of one none."""
    reference = (torch.ones(1, 1), Head(torch.tensor([[3.0], [2.0], [1.0], [0.0]])))
    head, label = Head(torch.zeros(4, 1).requires_grad_()), torch.zeros(1, dtype=torch.long)

    def pull(top: int | None) -> list[float]:
        """Of the loss on the logits: p - q."""
        stat = Distilled("reference", 1.5, top)
        value = token_statistics(torch.ones(1, 1), label, head, {stat}, reference)[stat]
        assert float(value.detach()) == pytest.approx(log(4))
        (found,) = torch.autograd.grad(value.sum(), head.weight_VD)
        return [0.25 - float(each) for each in found[:, 0]]

    share = exp(-0.5) / (1 + exp(-0.5))
    assert pull(2) == pytest.approx([share, 1 - share, 0, 0], abs=1e-6)
    assert pull(1) == pytest.approx([0, 1, 0, 0], abs=1e-6)
    assert pull(9) == pytest.approx(pull(None), abs=1e-6)


def test_a_token_that_is_certain_keeps_an_exact_target() -> None:
    """The target is made of logits: at p = 1 - 5e-11 the float32 probability is 1, and 1 - p would be nothing."""
    head, stat = Head(torch.tensor([[30.0], [6.0], [5.0]])), Distilled("reference", 20.0)
    hidden, label = torch.ones(1, 1, requires_grad=True), torch.zeros(1, dtype=torch.long)
    token_statistics(hidden, label, head, {stat}, (hidden.detach(), head))[stat].sum().backward()
    # target odds e^10 : e^6 : e^5; d/dh = sum_v W_v (p_v - q_v) with p = (1, 0, 0)
    total = exp(10) + exp(6) + exp(5)
    expected = 30 - (30 * exp(10) + 6 * exp(6) + 5 * exp(5)) / total
    assert hidden.grad is not None
    assert float(hidden.grad) == pytest.approx(expected, rel=1e-5)


def test_without_the_true_token_nothing_pulls_once_it_is_gone() -> None:
    head = Head(torch.tensor([[-50.0], [1.0], [0.0]]))
    hidden, label = torch.ones(1, 1, requires_grad=True), torch.zeros(1, dtype=torch.long)
    token_statistics(hidden, label, head, {WITHOUT})[WITHOUT].sum().backward()
    assert hidden.grad is not None
    assert float(hidden.grad) == pytest.approx(0, abs=1e-6)


def test_the_shift_token_t_is_scored_by_the_hidden_state_before_it() -> None:
    hidden_BTD = torch.eye(3)[None]  # position t has hidden state e_t
    head = Head(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    ids = torch.tensor([[2, 0, 1]])
    wanted = torch.tensor([[False, True, True]])
    logp_BT = score_positions(hidden_BTD, ids, wanted, head, {Stat.LOGP})[Stat.LOGP]
    # token 0 after e_0: logits (1, 0, 0); token 1 after e_1: logits (0, 2, 0)
    first = torch.tensor([1.0, 0, 0]).log_softmax(0)[0]
    second = torch.tensor([0, 2.0, 0]).log_softmax(0)[1]
    torch.testing.assert_close(logp_BT, torch.stack([torch.tensor(0.0), first, second])[None])


def test_tokens_after_the_same_beginning_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the texts 7 8 9, 7 8 6 and 7 8 9 the token 8, and what follows it: three different ones of five. The values
    are those of each alone, the gradients their sums."""
    torch.manual_seed(0)
    ids = torch.tensor([[7, 8, 9], [7, 8, 6], [7, 8, 9]])
    alike = torch.tensor([[0, 1, 2], [0, 1, 5], [0, 1, 2]])
    hidden = torch.randn(6, D)[alike].requires_grad_()
    wanted = torch.tensor([[False, True, True], [False, True, True], [False, False, True]])
    head = Head(torch.randn(V, D, requires_grad=True))
    of_token = torch.randn(2, 4)[torch.tensor([0, 1, 0, 1, 1])]  # the frozen model's states behind 7, and behind 7 8
    reference, upstream_BT = (of_token, Head(torch.randn(V, 4))), torch.randn(3, 3)
    scored: list[int] = []

    def counted(hidden_ND: Tensor, *others: Any) -> dict[TokenStat, Tensor]:
        scored.append(len(hidden_ND))
        return token_statistics(hidden_ND, *others)

    monkeypatch.setattr(blockwise, "token_statistics", counted)
    stats: set[TokenStat] = {Stat.LOGP, Stat.REFERENCE_KL}
    once = score_positions(hidden, ids, wanted, head, stats, reference, alike)
    apart = score_positions(hidden, ids, wanted, head, stats, reference)
    assert scored == [3, 5]
    torch.testing.assert_close(once, apart)
    gradients = [
        torch.autograd.grad(sum(((values[s] * upstream_BT).sum() for s in stats), torch.zeros(())), [hidden, head[0]])
        for values in (once, apart)
    ]
    # A shared state's gradient arrives at the first of its places.
    for_state = [torch.zeros(6, D).index_add(0, alike.flatten(), grads[0].flatten(0, 1)) for grads in gradients]
    torch.testing.assert_close(for_state[0], for_state[1])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("stat", [Stat.REFERENCE_KL, LOWERED])
def test_a_comparison_without_a_reference_says_so(stat: TokenStat) -> None:
    with pytest.raises(ValueError, match=f"{stat}: needs the reference"):
        token_statistics(torch.randn(N, D), torch.zeros(N, dtype=torch.long), Head(torch.randn(V, D)), {stat})


def test_nothing_wanted_is_nothing_scored() -> None:
    none = score_positions(
        torch.randn(2, 3, D),
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, 3, dtype=torch.bool),
        Head(torch.randn(V, D)),
        {Stat.LOGP},
    )
    assert none[Stat.LOGP].tolist() == [[0, 0, 0], [0, 0, 0]]
