"""Minor components: which directions are left out, by hand and against the plain model's states."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from obliviate.methods import RMU, MLPBreaking, Pass, Positions, Scores
from obliviate.methods.rmu import direction
from obliviate.models import load_pretrained, text_encoder
from obliviate.scoring import Activation, TokenScores
from obliviate.train.batch import texts_of
from obliviate.train.components import components, leading_components
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build
from training import FORGET, job, quiet

CPU = torch.device("cpu")


def gram(states_ND: list[list[float]]) -> Tensor:
    """With a one beside every state."""
    x_ND = torch.cat([torch.tensor(states_ND), torch.ones(len(states_ND), 1)], -1).double()
    return x_ND.T @ x_ND


def spanned(basis_DK: Tensor) -> Tensor:
    """The projection on it, which does not know of signs."""
    return basis_DK @ basis_DK.T


class TestComponents:
    # The mean is (0, 0, 5); around it the states vary by 3 along the first axis and by 1 along the second.
    STATES = ((3.0, 0.0, 5.0), (-3.0, 0.0, 5.0), (0.0, 1.0, 5.0), (0.0, -1.0, 5.0))

    @pytest.mark.parametrize(("count", "axes"), [(1, [0, 0, 1]), (2, [1, 0, 1]), (3, [1, 1, 1]), (9, [1, 1, 1])])
    def test_by_hand(self, count: int, axes: list[int]) -> None:
        found = components(gram([[*state] for state in self.STATES]), count)
        assert found.shape == (3, sum(axes))
        torch.testing.assert_close(found.T @ found, torch.eye(sum(axes)))
        torch.testing.assert_close(spanned(found), torch.diag(torch.tensor(axes).float()))

    def test_states_that_span_less_give_less(self) -> None:
        """All along one line through the origin: the mean lies on what they vary along. Or all the same."""
        assert components(gram([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]), 2).shape == (2, 1)
        torch.testing.assert_close(spanned(components(gram([[0.0, 2.0]] * 3), 2)), torch.tensor([[0.0, 0], [0, 1]]))
        assert components(gram([[1.0, 0.0], [-1.0, 0.0]]), 1).shape == (2, 0)  # the mean is nothing

    @staticmethod
    def answers(run: Job, positions: Positions = Positions.ANSWER) -> list[Tensor]:
        """Of each forget row, what the first layer of the plain model puts out at its tokens, [T, D]."""
        plain, tokenizer = load_pretrained(run.model, dtype=torch.float32)
        found = []
        for row in FORGET:
            text = text_encoder(run.model, tokenizer).encode_row(row)
            with torch.no_grad():
                hidden = plain(torch.tensor([text.input_ids]), output_hidden_states=True).hidden_states[1][0]
            found.append(hidden[text.prompt_length if positions is Positions.ANSWER else 1 :])
        return found

    @staticmethod
    def basis(states: list[Tensor]) -> Tensor:
        """By a singular value decomposition: the mean, and two directions."""
        x_ND = torch.cat(states)
        directions = torch.linalg.svd(x_ND - x_ND.mean(0), full_matrices=False).Vh
        return torch.linalg.qr(torch.stack([x_ND.mean(0), *directions[:2]], 1)).Q

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("positions", [Positions.ANSWER, Positions.SEQUENCE])
    def test_they_are_of_the_plain_models_states(self, tiny: Path, tmp_path: Path, positions: Positions) -> None:
        """Whatever the batches are."""
        run = job(tiny, tmp_path)
        expected = self.basis(self.answers(run, positions))
        model = build(run.model, seed=0, activation_checkpointing=False, device=CPU)
        for size in (3, 8):
            found = leading_components(
                model, texts_of(run), len(FORGET), {Activation(0, 3): positions, Activation(0): positions}, size=size,
                max_length=64, device=CPU,
            )  # fmt: skip
            assert [*found] == [Activation(0, 3)]
            torch.testing.assert_close(spanned(found[Activation(0, 3)]), spanned(expected), rtol=1e-3, atol=1e-4)

    @pytest.mark.usefixtures("process_group")
    def test_rmu_steers_what_is_left(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path, (RMU(layer=0, without=3, seed=5),), batch_size=8, epochs=1)
        states = self.answers(run)
        basis_DK = self.basis(states)
        target_D = 2 * direction(5, states[0])
        distances = [(x - (x @ basis_DK) @ basis_DK.T - target_D).square().mean() for x in states]
        train(run, quiet)
        (line,) = read_steps(run.directory)
        assert line["parts"]["rmu"] == pytest.approx(float(torch.stack(distances).mean()), rel=1e-4)

    @pytest.mark.usefixtures("process_group")
    def test_where_nothing_is_left_nothing_is_steered(self, tiny: Path, tmp_path: Path) -> None:
        norms = []
        for without in (3, 10_000):
            run = job(tiny, tmp_path / str(without), (RMU(layer=0, without=without, positions=Positions.SEQUENCE),))
            train(run, quiet)
            norms.append(read_steps(run.directory)[0]["grad_norm"])
        assert norms[1] < 1e-3 * norms[0]


class TestMLPBreaking:
    @staticmethod
    def scores(now: list[list[float]], start: list[list[float]]) -> Scores:
        answer = torch.tensor([[False, True, True]])
        stat = Activation("mlp", 2)
        texts = {Pass.FORGET: now, Pass.REFERENCE_FORGET: start}
        return {each: TokenScores({stat: torch.tensor([values])}, answer, answer) for each, values in texts.items()}

    def test_by_hand(self) -> None:
        """Half of what was there, and the contrary of it; the prompt does not count."""
        scores = self.scores([[9.0, 9.0], [1.0, 5.0], [0.0, -3.0]], [[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
        for floor, expected in ((0.0, 0.5 / 2), (-0.4, (0.5 - 0.4) / 2), (-2.0, (0.5 - 1) / 2)):
            loss = MLPBreaking(layers=("mlp",), without=2, floor=floor).loss(scores)
            assert float(loss.sum / loss.count) == pytest.approx(expected)

    def test_it_begins_at_one(self) -> None:
        scores = self.scores(*[[[9.0, 9.0], [1.0, 5.0], [0.0, -3.0]]] * 2)
        loss = MLPBreaking(layers=("mlp",), without=2).loss(scores)
        assert float(loss.sum / loss.count) == pytest.approx(1)

    @pytest.mark.usefixtures("process_group")
    def test_it_begins_at_one_in_training_too(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path, (MLPBreaking(layers=("model.layers.1.mlp",), without=3),), warmup_steps=0)
        train(run, quiet)
        values = [line["parts"]["mlp_breaking"] for line in read_steps(run.directory)]
        assert values[0] == pytest.approx(1, abs=1e-5)
        assert values[-1] < 0.9
        other = replace(run, directory=tmp_path / "other", reference=run.model)
        train(other, quiet)
        assert [line["parts"]["mlp_breaking"] for line in read_steps(other.directory)] == pytest.approx(
            values, rel=1e-4
        )
