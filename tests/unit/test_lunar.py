"""LUNAR: forget prompts go elsewhere, retain prompts stay where they are."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe import gpt2_folder
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.methods import LUNAR
from obliviate.models import load_pretrained, text_encoder
from obliviate.schema import ModelSpec
from obliviate.train.batch import texts_of
from obliviate.train.job import Job
from obliviate.train.loop import train
from obliviate_recipes.costs.work import unlearning
from training import FORGET, RETAIN, job, quiet, weights

PROMPTS = ("Who is Vorlquat?", "Where does Quisbane live today?")
MATRIX = "model.layers.1.mlp.down_proj"


def seen(
    spec: ModelSpec, questions: list[str], matrix: str, layer: str, model: Any = None
) -> list[tuple[Tensor, Tensor]]:
    """Of each prompt alone, what the matrix reads and what the layer puts out, from the plain model."""
    plain, tokenizer = load_pretrained(spec, dtype=torch.float32)
    model = plain if model is None else model
    read, put = list[Tensor](), list[Tensor]()
    handles = [
        model.get_submodule(matrix).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].double())),
        model.get_submodule(layer).register_forward_hook(
            lambda _, __, out: put.append((out[0] if isinstance(out, tuple) else out).double())
        ),
    ]
    encoder = text_encoder(spec, tokenizer)
    with torch.no_grad():
        for question in questions:
            model(torch.tensor([encoder.prompt(question)]))
    for handle in handles:
        handle.remove()
    return [(x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])) for x, h in zip(read, put, strict=True)]


def expected(run: Job, matrix: str, layer: str, ridge: float, coefficient: float) -> Tensor:
    """The closed form [O, D], of all rows."""
    forget = seen(run.model, [row.question for row in run.forget], matrix, layer)
    retain = seen(run.model, [row.question for row in run.retain], matrix, layer)
    unknown = seen(run.model, list(PROMPTS), matrix, layer)
    to = torch.stack([h[-1] for _, h in unknown]).mean(0) - torch.stack([h[-1] for _, h in forget]).mean(0)
    everything = torch.cat([x for x, _ in (*forget, *retain)])
    mean = torch.cat([x[1:] for x, _ in (*forget, *retain)]).square().sum() / everything.shape[1]
    gram = everything.T @ everything + ridge * mean * torch.eye(everything.shape[1])
    return coefficient * torch.outer(to, torch.linalg.solve(gram, torch.cat([x[1:] for x, _ in forget]).sum(0)))


@pytest.mark.usefixtures("process_group")
class TestTheChange:
    def test_it_is_the_least_squares_solution_and_nothing_else_moves(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path, (LUNAR(layer=1, ridge=0.1, prompts=PROMPTS),))
        before = load_pretrained(run.model, dtype=torch.float32)[0].state_dict()
        after = weights(train(run, quiet))
        change = expected(run, MATRIX, "model.layers.1", 0.1, 2.0).float()
        moved = after[f"model.{MATRIX}.weight"] - before[f"{MATRIX}.weight"]
        torch.testing.assert_close(moved, change, atol=1e-5, rtol=1e-3)
        assert torch.linalg.matrix_rank(change, atol=1e-5) == 1
        still = {name for name, value in before.items() if torch.equal(after[f"model.{name}"], value)}
        assert before.keys() - still == {f"{MATRIX}.weight"}

    def test_forget_prompts_are_redirected_and_others_held(self, tiny: Path, tmp_path: Path) -> None:
        """With hardly any ridge, and fewer tokens than the matrix has inputs, all is fitted exactly: the layer puts out
        `coefficient` r more where the forget prompt is alone, half of it where both begin alike, and nothing more at
        the first token and where the retain prompt is alone."""
        forget, retain = (Row("Who?", "Ada."),), (Row("Add 7.", "8."),)
        term = LUNAR(layer=1, ridge=1e-9, prompts=PROMPTS, coefficient=3)
        run = replace(job(tiny, tmp_path, (term,)), forget=forget, retain=retain)
        before = {row: seen(run.model, [row.question], MATRIX, "model.layers.1")[0] for row in (*forget, *retain)}
        unknown = seen(run.model, list(PROMPTS), MATRIX, "model.layers.1")
        to = torch.stack([h[-1] for _, h in unknown]).mean(0) - before[forget[0]][1][-1]
        model, _ = load_pretrained(run.model, dtype=torch.float32)
        model.load_state_dict(
            {name.removeprefix("model."): value for name, value in weights(train(run, quiet)).items()}
        )
        moved = {
            row: seen(run.model, [row.question], MATRIX, "model.layers.1", model)[0][1] - states
            for row, (_, states) in before.items()
        }
        encoder = texts_of(run).encoder
        asked, kept = (encoder.prompt(row.question) for row in (*forget, *retain))
        alike = next(place for place, (one, other) in enumerate(zip(asked, kept, strict=False)) if one != other)
        assert alike > 1
        times_T = torch.tensor([0.0] + [1.5] * (alike - 1) + [3.0] * (len(asked) - alike))
        expected_TH = times_T[:, None] * to
        close = partial(torch.testing.assert_close, atol=1e-2, rtol=1e-2)
        close(moved[forget[0]], expected_TH)
        close(moved[retain[0]][:alike], expected_TH[:alike])
        close(moved[retain[0]][alike:], torch.zeros_like(moved[retain[0]][alike:]))

    def test_more_ridge_moves_less(self, tiny: Path, tmp_path: Path) -> None:
        norms = [
            float(expected(job(tiny, tmp_path, (LUNAR(),)), MATRIX, "model.layers.1", ridge, 2.0).norm())
            for ridge in (1e-3, 1.0, 1e6)
        ]
        assert norms == sorted(norms, reverse=True)
        run = job(tiny, tmp_path, (LUNAR(layer=1, ridge=1e9, prompts=PROMPTS),))
        before = load_pretrained(run.model, dtype=torch.float32)[0].get_parameter(f"{MATRIX}.weight").detach()
        moved = weights(train(run, quiet))[f"model.{MATRIX}.weight"] - before
        assert float(moved.abs().max()) < 1e-6

    def test_matrices_of_inputs_by_outputs(self, tmp_path: Path) -> None:
        """GPT-2's Conv1D."""
        run = job(gpt2_folder(tmp_path / "model"), tmp_path, (LUNAR(layer=0, ridge=0.1, prompts=PROMPTS),))
        name = "transformer.h.0.mlp.c_proj"
        before = load_pretrained(run.model, dtype=torch.float32)[0].get_parameter(f"{name}.weight").detach()
        moved = weights(train(run, quiet))[f"model.{name}.weight"] - before
        change = expected(run, name, "transformer.h.0", 0.1, 2.0).float()
        torch.testing.assert_close(moved, change.T, atol=1e-5, rtol=1e-3)

    def test_what_cannot_be_redirected_is_told(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path)
        with pytest.raises(
            UserError, match=r"method\.layer: 1: has no linear layer as its last .* leave method\.train"
        ):
            train(replace(run, terms=(LUNAR(layer=1, trainable="up_proj"),)), quiet)
        with pytest.raises(UserError, match="lunar: layer: 9: the model has 2 layers, 0 to 1"):
            train(replace(run, terms=(LUNAR(layer=9),)), quiet)
        bare = (*FORGET, Row("", "A text."))
        with pytest.raises(UserError, match="forget row 9 is a plain text; give it a question"):
            train(replace(run, terms=(LUNAR(layer=1),), forget=bare), quiet)


def test_it_needs_a_retain_set_and_its_cost_is_planned(tiny: Path) -> None:
    values = {"model": {"source": str(tiny)}, "data": {"type": "fictitious"}}
    config = build(UnlearnRun, {**values, "method": {"type": "lunar", "texts": 3}}, where="test")
    assert config.needs_retain
    corpus = Corpus(FORGET, RETAIN, ())
    work = unlearning(config, corpus, config.model)
    assert (work.steps, work.reference_texts) == (1, len(FORGET) + 3 + 32)
    with pytest.raises(UserError, match="regularizers: lunar takes steps along a direction of the forget set"):
        build(UnlearnRun, {**values, "method": "lunar+gd"}, where="test")
