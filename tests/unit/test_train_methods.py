"""What the methods compute in the training loop, against plain Hugging Face forwards, and what state they keep."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.methods import CEU, GD, KL, PDU, RMU, SHRED, UNDIAL, WHP, Activations, AltPO, BoundedGD, Positions
from obliviate.methods.rmu import direction
from obliviate.models import load_pretrained
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from tiny import tiny_model_folder
from training import FORGET, METHODS, job, losses, quiet, weights

pytestmark = pytest.mark.usefixtures("process_group")


def answers(run: Job) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each forget row, by the plain Hugging Face forward: the logits [T, V] that predict the answer's tokens, these
    tokens [T], and what the first layer puts out at them [T, D]."""
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    found = []
    for row in FORGET:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.question}], add_generation_prompt=True, return_dict=False
        )
        answer = [*tokenizer(row.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
        found.append(
            (out.logits[0, len(prompt) - 1 : -1], torch.tensor(answer), out.hidden_states[1][0, len(prompt) :])
        )
    return found


def test_undial_begins_at_its_teachers_cross_entropy(tiny: Path, tmp_path: Path) -> None:
    """On the answer's tokens alone, and each with its own label: neither -100 nor padding takes part."""
    run = job(tiny, tmp_path, (UNDIAL(beta=3),), batch_size=8, epochs=1)
    values = []
    for z_TV, labels_T, _ in answers(run):
        lowered_TV = z_TV.clone()
        lowered_TV[torch.arange(len(labels_T)), labels_T] -= 3
        values.append(-(lowered_TV.softmax(-1) * z_TV.log_softmax(-1)).sum(-1))
    assert losses(run)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)


def test_ceu_leaves_out_the_true_token_and_the_first_of_each_answer(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, (CEU(),), batch_size=8, epochs=1)
    values = []
    for z_TV, labels_T, _ in answers(run):
        without_TV = z_TV.clone()
        without_TV[torch.arange(len(labels_T)), labels_T] = float("-inf")
        values.append(-(without_TV.softmax(-1) * z_TV.log_softmax(-1)).sum(-1)[1:])
    assert losses(run)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)


def test_whp_begins_at_the_generic_tokens_cross_entropy(tiny: Path, tmp_path: Path) -> None:
    """Beside KL to the starting model, which compares with that alone."""
    reinforced = ModelSpec(source=str(tiny_model_folder(tmp_path / "reinforced", seed=1)), compute_dtype="float32")
    run = job(tiny, tmp_path, (WHP(alpha=5), KL()), batch_size=8, epochs=1, micro_batch_size=3)
    run = replace(run, reinforced=reinforced)
    values = []
    raised = [z_TV for z_TV, *_ in answers(replace(run, model=reinforced))]
    for (z_TV, *_), reinforced_TV in zip(answers(run), raised, strict=True):
        generic_T = (z_TV - 5 * (reinforced_TV - z_TV).relu()).argmax(-1)
        values.append(-z_TV.log_softmax(-1).gather(-1, generic_T[:, None])[:, 0])
    found = losses(run)
    assert found[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)
    assert found[1] == pytest.approx(0, abs=1e-6)


def test_pdu_flattens_the_logits_that_predict_the_answer(tiny: Path, tmp_path: Path) -> None:
    """Those of the position before each token. Published code takes the position of the token itself."""
    run = job(tiny, tmp_path, (PDU(),), batch_size=8, epochs=1)
    gaps = torch.cat([z_TV.amax(-1) - z_TV.mean(-1) for z_TV, *_ in answers(run)])
    assert losses(run)[0] == pytest.approx(float(gaps.square().mean()), rel=1e-5)


def test_rmu_begins_at_the_distance_of_the_models_own_hidden_states(tiny: Path, tmp_path: Path) -> None:
    """The run's seed, 0, draws the direction; micro-batches of two texts of different length change nothing."""
    run = job(tiny, tmp_path, (RMU(layer=0), Activations(layer=0)), batch_size=8, epochs=1)
    texts = [(h_TD - 2 * direction(0, h_TD)).square().mean() for *_, h_TD in answers(run)]
    train(run, quiet)
    first = read_steps(run.directory)[0]
    assert first["parts"]["rmu"] == pytest.approx(float(torch.stack(texts).mean()), rel=1e-5)
    assert first["parts"]["activations"] == pytest.approx(0, abs=1e-10)


def test_the_dual_variable_follows_the_retain_loss_once_a_step(tiny: Path, tmp_path: Path) -> None:
    """By hand from the log: constant in the first quarter, then max(0, lambda + 0.5 violation); never reset."""
    run = job(tiny, tmp_path, METHODS["pdu"], micro_batch_size=1, epochs=3)
    train(run, quiet)
    lines = read_steps(run.directory)
    expected = 2.0
    for line in lines:
        assert line["weights"]["bounded_gd"] == expected
        assert line["loss"] == pytest.approx(line["parts"]["pdu"] + expected * line["parts"]["bounded_gd"])
        if line["step"] > 2:  # the first two of six steps begin before a quarter of the run is done
            expected = max(0.0, expected + 0.5 * line["parts"]["bounded_gd"])
    assert expected > 2


@pytest.mark.parametrize("epochs", [2, 5])
def test_the_dual_variable_moves_in_the_second_half_of_any_run(tiny: Path, tmp_path: Path, epochs: int) -> None:
    run = job(tiny, tmp_path, (PDU(), BoundedGD()), epochs=epochs)
    train(run, quiet)
    held = [line["weights"]["bounded_gd"] for line in read_steps(run.directory)]
    steps = 2 * epochs
    assert held[: steps // 2 + 1] == [100] * (steps // 2 + 1)  # the first move is after the step that begins at half
    assert held[-1] >= held[steps // 2 + 1] > 100


@pytest.mark.parametrize("name", ["pdu", "rmu", "adaptive_rmu+kl", "undial"])
def test_state_and_constants_survive_a_resume_bit_for_bit(tiny: Path, tmp_path: Path, name: str) -> None:
    def make(folder: str) -> Job:
        return job(tiny, tmp_path / folder, METHODS[name], checkpoint_every_steps=1)

    def dies(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 4:  # its checkpoint is not written, the dual variable's last move is lost with it
            raise KeyboardInterrupt

    undisturbed = weights(train(make("whole"), quiet))
    with pytest.raises(KeyboardInterrupt):
        train(make("cut"), dies)
    again = weights(train(make("cut"), quiet))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)
    lines = [
        [(line["parts"], line["weights"]) for line in read_steps(make(folder).directory)] for folder in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)], ids=["full", "lora"])
def test_only_what_the_pattern_is_found_in_is_trained(tiny: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
    run = job(tiny, tmp_path, (RMU(layer=1, trainable=r"layers\.(0|1)\.mlp\.down_proj"), Activations(layer=1)))
    run = replace(run, model=run.model.model_copy(update={"lora": lora}))
    still = weights(
        train(replace(run, directory=tmp_path / "still", optim=run.optim.model_copy(update={"learning_rate": 1e-30})))
    )
    moved = {name for name, value in weights(train(run, quiet)).items() if not torch.equal(value, still[name])}
    assert moved
    assert all("mlp.down_proj" in name for name in moved)
    assert {name.partition("layers.")[2][0] for name in moved} == {"0", "1"}


def test_a_pattern_found_nowhere_is_answered_with_the_nearest_names(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, (RMU(layer=1, trainable=r"layers\.1\.mlp\.dwon_proj"),))
    with pytest.raises(
        UserError, match=r"method.trainable: .*dwon_proj: found in no .* nearest: .*layers\.1\.mlp\.down_proj"
    ):
        train(run, quiet)


def test_a_layer_that_the_model_lacks_is_answered_with_its_number_of_layers(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="activations: layer: 2: the model has 2 layers, 0 to 1"):
        train(job(tiny, tmp_path, (RMU(layer=1), Activations(layer=2))), quiet)


def test_a_layer_may_be_named(tiny: Path, tmp_path: Path) -> None:
    numbered, named = (
        losses(job(tiny, tmp_path / str(layer), (RMU(layer=layer), Activations(layer=layer))))
        for layer in (1, "model.layers.1")
    )
    assert numbered == named


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("layer", ["model.layers", "lm_head", "model", "model.rotary_emb"])
def test_a_layer_that_puts_out_no_vector_for_each_token_is_told_before_training(
    tiny: Path, tmp_path: Path, layer: str, lora: LoraSpec | None
) -> None:
    """A list never runs, nor does the head where the loss is computed; the decoder's output is no single tensor."""
    run = job(tiny, tmp_path, (GD(), Activations(layer=layer)))
    run = replace(run, model=run.model.model_copy(update={"lora": lora}))
    with pytest.raises(UserError, match=rf"^activations: layer: {layer}: no module .* the nearest: model\.") as error:
        train(run, quiet)
    for name in str(error.value).rpartition("the nearest: ")[2].split(", "):
        run = replace(run, terms=(GD(), Activations(layer=name)), directory=tmp_path / name)
        assert len(losses(run)) == 8


def test_a_layer_name_that_the_model_lacks_is_answered_with_the_nearest(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^rmu: layer: model\.layer\.1: .* the nearest: model\.layers\.1, "):
        train(job(tiny, tmp_path, (RMU(layer="model.layer.1"), GD())), quiet)


def test_a_row_without_alternatives_is_named(tiny: Path, tmp_path: Path) -> None:
    rows = (*FORGET[:2], Row("Who is person 2?", "Nobody."), *FORGET[3:])
    with pytest.raises(UserError, match=r"forget row 3 \('Who is person 2\?'\) has no 'alternatives'"):
        train(replace(job(tiny, tmp_path, (AltPO(), GD())), forget=rows), quiet)


def test_activation_checkpointing_and_a_layers_hidden_states_go_together(tiny: Path, tmp_path: Path) -> None:
    curves = [
        losses(job(tiny, tmp_path / str(on), METHODS["rmu"], activation_checkpointing=on)) for on in (False, True)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_a_scheduled_weight_is_that_of_each_step(tiny: Path, tmp_path: Path) -> None:
    """Four steps, of which the first begins at the ramp's beginning; the loss is as it was weighed."""
    run = job(tiny, tmp_path, METHODS["circuit_breakers+gd"])
    train(run, quiet)
    lines = read_steps(run.directory)
    assert [line["weights"]["circuit_breakers"] for line in lines] == [23 * (1 - done / 16) for done in range(4)]
    assert [line["weights"]["representations"] for line in lines] == [2 * done / 4 for done in range(4)]
    for line in lines:
        weighed = sum(line["weights"][name] * line["parts"][name] for name in line["parts"])
        assert line["loss"] == pytest.approx(weighed)
    assert lines[0]["parts"]["circuit_breakers"] == pytest.approx(1, abs=1e-5)  # the model is its own reference


def test_shred_lowers_the_tokens_that_the_start_finds_least_likely(tiny: Path, tmp_path: Path) -> None:
    """On the answer alone, with a vocabulary that is not cut: half of each answer's tokens, rounded up, are lowered."""
    run = job(
        tiny, tmp_path, (SHRED(beta=3, share=0.5, top=10_000, positions=Positions.ANSWER),), batch_size=8, epochs=1
    )
    values = []
    for z_TV, labels_T, _ in answers(run):
        places = torch.arange(len(labels_T))
        logp_T = z_TV.log_softmax(-1)[places, labels_T]
        low = logp_T.argsort()[: -(-len(labels_T) // 2)]
        target_TV = z_TV.clone()
        target_TV[low, labels_T[low]] -= 3
        values.append(-(target_TV.softmax(-1) * z_TV.log_softmax(-1)).sum(-1))
    assert losses(run)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)


def test_shred_pulls_nowhere_but_at_the_lowered_tokens(tiny: Path, tmp_path: Path) -> None:
    """Where next to nothing is lowered, every target is what the model says already, the prompt's tokens' too."""
    norms = []
    for beta in (1e-6, 3):
        run = job(tiny, tmp_path / str(beta), (SHRED(beta=beta, top=10_000),))
        train(run, quiet)
        norms.append(read_steps(run.directory)[0]["grad_norm"])
    assert norms[0] < 1e-4 * norms[1]
