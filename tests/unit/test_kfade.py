"""K-FADE: gradients divided by the retain set's curvature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe import moe_folder
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.methods import KFADE
from obliviate.models import load_pretrained, text_encoder
from obliviate.train.batch import texts_of
from obliviate.train.curvature import Curved, inverse
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build as build_model
from obliviate.train.model import reshard
from training import FORGET, RETAIN, job, quiet, weights

CPU = torch.device("cpu")


def test_the_inverse_by_hand() -> None:
    """Eigenvalues 1 and 3, of mean 2, and damping of 1/2: 1 / (0.5 + 0.5) and 1 / (1.5 + 0.5), whatever the unit."""
    expected = torch.diag(torch.tensor([1.0, 0.5]))
    for unit in (1.0, 1e-6):
        torch.testing.assert_close(inverse(unit * torch.diag(torch.tensor([1.0, 3.0])), 0.5), expected)
    torch.testing.assert_close(inverse(torch.zeros(2, 2), 0.5), 2 * torch.eye(2))


def gradient(model: torch.nn.Module, tokenizer: object, run: Job, rows: tuple) -> list[Tensor]:  # type: ignore[type-arg]
    """Of each row's answer the log-probabilities."""
    found = []
    for row in rows:
        text = text_encoder(run.model, tokenizer).encode_row(row)  # type: ignore[arg-type]
        ids = torch.tensor([text.input_ids])
        logp_TV = model(ids).logits[0, :-1].log_softmax(-1)
        found.append(logp_TV.gather(1, ids[0, 1:, None])[text.prompt_length - 1 :])
    return found


@pytest.mark.usefixtures("process_group")
class TestSteps:
    def test_a_step_is_that_of_the_plain_models_gradients(self, tiny: Path, tmp_path: Path) -> None:
        """A and S from hooks on the plain model, over all retain rows."""
        run = job(tiny, tmp_path, (KFADE(eta=0.5, steps=1, damping=0.3, texts=99, trainable="up_proj"),))
        model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
        model.requires_grad_(True)
        name = "model.layers.1.mlp.up_proj"
        inputs, outputs = list[Tensor](), list[Tensor]()

        def keep(_: object, given: tuple[Tensor], output: Tensor) -> None:
            inputs.append(given[0][0].detach())
            output.register_hook(lambda g: outputs.append(g[0]))

        handle = model.get_submodule(name).register_forward_hook(keep)
        torch.cat(gradient(model, tokenizer, run, RETAIN)).sum().backward()
        handle.remove()
        x, g = torch.cat(inputs), torch.cat(outputs)
        model.zero_grad()
        torch.cat(gradient(model, tokenizer, run, FORGET)).mean().backward()
        weight = model.get_parameter(f"{name}.weight")
        assert weight.grad is not None
        expected = -0.5 * inverse(g.T @ g, 0.3) @ weight.grad @ inverse(x.T @ x, 0.3)
        after = weights(train(run, quiet))
        found = after[f"model.{name}.weight"] - weight.detach()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-2)

    def test_much_damping_is_plain_ascent_and_steps_lower_the_probability(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path / "damped", (KFADE(eta=1e8, steps=3, damping=1e4, texts=4),))
        train(run, quiet)
        lines = [line["parts"]["kfade"] for line in read_steps(run.directory)]
        assert lines == sorted(lines, reverse=True)
        assert lines[0] > lines[-1] + 1e-3
        model = build_model(run.model, seed=0, activation_checkpointing=False, device=CPU)
        before = weights(model)
        term = KFADE(eta=1e8, steps=1, damping=1e4, texts=4)
        curved = Curved(replace(run, terms=(term,)), model, texts_of(run), term.ascent)
        reshard(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        curved.step(1e8)
        name = "model.model.layers.0.mlp.up_proj.weight"
        moved = weights(model)[name] - before[name]
        torch.testing.assert_close(moved, -torch.ones_like(moved), atol=1e-2, rtol=0)  # 1e8 / 1e4 / 1e4


@pytest.mark.usefixtures("process_group")
def test_experts_are_refused(tmp_path: Path) -> None:
    run = job(moe_folder(tmp_path / "model", "mixtral"), tmp_path, (KFADE(),))
    with pytest.raises(UserError, match=r"holds the weights of all experts.*method\.trainable$"):
        train(run, quiet)


def test_it_needs_a_retain_set_and_nothing_else() -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}}
    assert build(UnlearnRun, {**values, "method": "kfade"}, where="test").needs_retain
    with pytest.raises(UserError, match="regularizers: kfade takes steps along a direction of the forget set"):
        build(UnlearnRun, {**values, "method": "kfade+gd"}, where="test")
