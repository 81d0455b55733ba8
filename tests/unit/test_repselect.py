"""RepSelect: which direction the weights take, and that it stays the same one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe import moe_folder
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.methods import RepSelect
from obliviate.models import load_pretrained, load_tokenizer, text_encoder
from obliviate.train.adversary import adversary
from obliviate.train.batch import texts_of
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build as build_model
from obliviate.train.repselect import collapsed
from training import FORGET, job, quiet, weights

CPU = torch.device("cpu")


class TestCollapse:
    def test_by_hand(self) -> None:
        """Of strengths 4 and 2 the stronger is divided by 4 / 2, once for each side; the weakest stays."""
        found = collapsed(torch.tensor([[4.0, 0, 0], [0, 2, 0]]), 2)
        torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [0, 2, 0]]), atol=1e-5, rtol=0)

    def test_beyond_the_rank_all_stays(self) -> None:
        """The two strongest of 100, 50 and 0.01: 50^2 / 100 of the first."""
        found = collapsed(torch.diag(torch.tensor([100.0, 50, 0.01])), 2)
        torch.testing.assert_close(found, torch.diag(torch.tensor([25, 50, 0.01])), atol=1e-3, rtol=0)
        one = torch.tensor([[3.0, 1], [1, 3]])
        torch.testing.assert_close(collapsed(one, 1), one, atol=1e-5, rtol=0)

    def test_rounding_is_no_direction(self) -> None:
        """A rank of one: its singular values beyond the first are rounding, and as the weakest would leave nothing."""
        gradient = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 8))
        torch.testing.assert_close(collapsed(gradient, 4), gradient, atol=1e-4, rtol=0)
        assert collapsed(torch.zeros(3, 4), 2).tolist() == torch.zeros(3, 4).tolist()

    def test_turned_inputs_and_outputs_are_turned_in_the_result_and_experts_are_apart(self) -> None:
        torch.manual_seed(0)
        out_OO, in_DD = (torch.linalg.qr(torch.randn(size, size))[0] for size in (6, 5))
        plain = torch.zeros(6, 5)
        plain[range(3), range(3)] = torch.tensor([9.0, 3, 1])
        expected = out_OO @ torch.diag(torch.tensor([1 / 9, 1 / 3, 1.0, 0, 0, 0]))[:, :5] @ in_DD.T
        turned = out_OO @ plain @ in_DD.T
        torch.testing.assert_close(collapsed(turned, 3), expected, atol=1e-4, rtol=0)
        both = collapsed(torch.stack([turned, 2 * turned]), 3)
        torch.testing.assert_close(both, torch.stack([expected, 2 * expected]), atol=1e-4, rtol=0)


def ends(run: Job) -> dict[str, Tensor]:
    return weights(train(run, quiet))


@pytest.mark.usefixtures("process_group")
class TestSteps:
    def test_a_step_is_the_collapsed_gradient_of_the_plain_model(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path, (RepSelect(eta=0.5, steps=1, rank=3, adversary=0),))
        model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
        model.requires_grad_(True)
        total = []
        for row in FORGET:
            text = text_encoder(run.model, tokenizer).encode_row(row)
            ids = torch.tensor([text.input_ids])
            logp_TV = model(ids).logits[0, :-1].log_softmax(-1)
            total.append(logp_TV.gather(1, ids[0, 1:, None])[text.prompt_length - 1 :])
        torch.cat(total).mean().backward()
        before, after = dict(model.named_parameters()), ends(run)
        moved = set()
        for name, parameter in before.items():
            change = after[f"model.{name}"] - parameter.detach()
            if change.any():
                moved.add(name)
                assert parameter.grad is not None
                torch.testing.assert_close(change, -0.5 * collapsed(parameter.grad, 3), atol=1e-5, rtol=1e-3)
        assert moved == {name for name in before if ".mlp." in name}

    def test_all_steps_are_one_and_lower_the_probability(self, tiny: Path, tmp_path: Path) -> None:
        three, one = (
            job(tiny, tmp_path / str(steps), (RepSelect(eta=eta, steps=steps, rank=3),))
            for steps, eta in ((3, 1.0), (1, 3.0))
        )
        found, expected = ends(three), ends(one)
        assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in found)
        lines = [line["parts"]["repselect"] for line in read_steps(three.directory)]
        assert lines == sorted(lines, reverse=True)
        assert lines[0] > lines[-1] + 1e-3
        assert len({line["grad_norm"] for line in read_steps(three.directory)}) == 1

    def test_the_adversary_knows_the_forget_set_better_and_goes(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path, (RepSelect(rank=3),), batch_size=2)
        model = build_model(run.model, seed=0, activation_checkpointing=False, device=CPU)
        before = weights(model)
        with adversary(run, model, texts_of(run), 1.0):
            within = weights(model)
        assert {name for name in before if not torch.equal(before[name], within[name])} == {
            name for name in before if ".mlp." in name
        }
        assert all(torch.equal(each, before[name]) for name, each in weights(model).items())
        none, some = (
            ends(replace(run, terms=(RepSelect(rank=3, adversary=rate),), directory=tmp_path / str(rate)))
            for rate in (0, 1.0)
        )
        assert any(not torch.equal(none[name], some[name]) for name in none)

    def test_it_goes_on_in_the_same_direction(self, tiny: Path, tmp_path: Path) -> None:
        def make(folder: str) -> Job:
            return job(tiny, tmp_path / folder, (RepSelect(eta=1, steps=4, rank=3),), checkpoint_every_steps=1)

        def dies(metrics: Mapping[str, Any]) -> None:
            if metrics["step"] == 3:
                raise KeyboardInterrupt

        whole = ends(make("whole"))
        with pytest.raises(KeyboardInterrupt):
            train(make("cut"), dies)
        cut = ends(make("cut"))
        assert all(torch.equal(whole[name], cut[name]) for name in whole)

    def test_experts_have_no_adversary(self, tmp_path: Path) -> None:
        run = job(moe_folder(tmp_path / "model", "mixtral"), tmp_path, (RepSelect(rank=2, steps=1),))
        with pytest.raises(UserError, match=r"method\.adversary: .*experts.* set adversary: 0$"):
            train(run, quiet)
        bare = replace(run, terms=(RepSelect(rank=2, steps=1, adversary=0),))
        tokenizer = load_tokenizer(run.model)
        assert tokenizer is not None
        before = weights(build_model(run.model, seed=0, activation_checkpointing=False, device=CPU))
        after = ends(bare)
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert any("experts" in name for name in moved)
        assert not any(name.endswith("gate.weight") for name in moved)  # the router


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "repselect+gd"}, "regularizers: repselect takes steps along a direction of the forget set"),
        ({"method": "repselect", "sharpness": {}}, "sharpness: repselect has no optimiser's updates"),
        ({"method": "repselect", "forget_learning_rate": 1e-3}, "forget_learning_rate: repselect has no optimiser"),
        ({"method": "repselect", "model": {"source": "x", "lora": {}}}, "model.lora: repselect moves the weights"),
        ({"method": {"type": "repselect", "eta": 0}}, "greater than 0"),
        ({"method": {"type": "repselect", "rank": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_go_with_it(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}, where="test")
