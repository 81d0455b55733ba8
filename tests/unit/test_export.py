"""What lies in a written model's folder: the source's files, in its dtype, and what is kept where writing fails."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from obliviate.companions import end_ids, repaired, with_dtype
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.fit import notes
from obliviate.methods import GA, GD
from obliviate.models import load_tokenizer, stop_ids
from obliviate.runs import EXPORT_FILE, RUN_FILE, Run
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.source import export_dtype
from obliviate.train import checkpoint
from obliviate.train.job import CHECKPOINTS, Job
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process
from obliviate.train.produce import train_and_write
from obliviate.weights import WEIGHTS
from obliviate.writer import Writer
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.cautions import of_dtype
from training import job, quiet

SAMPLING = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 1]}


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """In bfloat16."""
    folder = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def run_of(source: Path, folder: Path, learning_rate: float = 1e-2, **model: Any) -> Job:
    run = job(source, folder / "run", (GA(), GD()), learning_rate=learning_rate, warmup_steps=0, epochs=1)
    return replace(run, model=run.model.model_copy(update=model))


def written(run: Job, folder: Path) -> Path:
    with single_process():
        train_and_write(run, folder, quiet)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def put(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**read(path), **values}))


class TestCompanions:
    def test_what_has_no_effect_and_is_refused_is_left_out(self) -> None:
        found = repaired({"model_type": "llama"}, {**SAMPLING, "pad_token_id": -1})
        assert found.generation == {"do_sample": False, "eos_token_id": [2, 1]}
        assert found.notes == (
            "generation_config.json: pad_token_id, temperature, top_p left out of the export, of no effect and refused "
            "by transformers",
        )
        kept = {**SAMPLING, "do_sample": True}
        assert repaired({"model_type": "llama"}, kept).generation == kept

    def test_generation_parameters_of_the_models_config_move(self) -> None:
        """With the ends, which transformers takes from the model's config only where there is no other file."""
        config = {"model_type": "llama", "hidden_size": 8, "repetition_penalty": 1.1, "eos_token_id": 7}
        found = repaired(config, None)
        assert found.config == {"model_type": "llama", "hidden_size": 8, "eos_token_id": 7}
        assert found.generation == {"eos_token_id": 7, "repetition_penalty": 1.1}
        given = repaired(config, {"repetition_penalty": 1.3})
        assert given.generation == {"repetition_penalty": 1.3}
        assert "repetition_penalty moved to generation_config.json in the export" in found.notes[0]

    def test_the_dtype_of_all_parts(self) -> None:
        config = {"torch_dtype": "float32", "text_config": {"dtype": "float32"}, "a": 1}
        expected = {"torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "a": 1}
        assert with_dtype(config, torch.bfloat16) == expected
        assert with_dtype({"a": 1}, torch.float16) == {"a": 1, "dtype": "float16"}

    def test_ends_named_in_the_generation_config_alone_end_a_turn(self, source: Path) -> None:
        put(source / "generation_config.json", eos_token_id=[2, 40, 41])
        spec = ModelSpec(source=str(source))
        tokenizer = load_tokenizer(spec)
        assert stop_ids(spec, tokenizer) == {2, 40, 41}
        (source / "generation_config.json").unlink()
        put(source / "config.json", eos_token_id=[2, 50])
        assert stop_ids(spec, tokenizer) == {2, 50}
        assert end_ids(lambda _: None) == frozenset()


class TestFolder:
    def test_it_is_the_sources_in_its_dtype(self, source: Path, tmp_path: Path) -> None:
        put(source / "config.json", torch_dtype="bfloat16", my_own_key=[1, 2])
        put(source / "generation_config.json", **SAMPLING)
        put(source / "tokenizer_config.json", my_own_key="kept")
        found = written(run_of(source, tmp_path), tmp_path / "model")
        assert {each.dtype for each in load_file(found / WEIGHTS).values()} == {torch.bfloat16}
        assert read(found / "config.json") == read(source / "config.json")
        assert GenerationConfig.from_pretrained(found).eos_token_id == [2, 1]
        GenerationConfig.from_pretrained(found).save_pretrained(tmp_path)  # which the source's could not be
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (found / name).read_bytes() == (source / name).read_bytes()
        assert notes(ModelSpec(source=str(source))) == [
            f"model.source: {source}: generation_config.json: temperature, top_p left out of the export, of no effect "
            "and refused by transformers"
        ]

    def test_float32_where_it_is_asked_for(self, source: Path, tmp_path: Path) -> None:
        found = written(run_of(source, tmp_path, export_dtype="float32"), tmp_path / "model")
        assert {each.dtype for each in load_file(found / WEIGHTS).values()} == {torch.float32}
        assert read(found / "config.json") == {**read(source / "config.json"), "dtype": "float32"}

    def test_the_dtype_is_that_of_the_files(self, source: Path, tiny: Path) -> None:
        put(source / "config.json", dtype="float32")  # as some say that hold something else
        assert export_dtype(ModelSpec(source=str(source))) == torch.bfloat16
        assert export_dtype(ModelSpec(source=str(tiny))) == torch.float32
        assert export_dtype(ModelSpec(source=str(tiny), export_dtype="float16")) == torch.float16
        (source / WEIGHTS).unlink()  # other weights, as pickled ones, are not looked into
        put(source / "config.json", dtype="float16")
        assert export_dtype(ModelSpec(source=str(source))) == torch.float16

    def test_tensors_that_lie_otherwise_in_memory_are_written_as_they_are_read(self, tmp_path: Path) -> None:
        """A transposed view, a flag, and a piece at a time; wide numbers come first in the file."""
        tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([True, False, True])}
        shapes = {"b": ((3,), torch.bool), "a": ((3, 2), torch.float32), "c": ((5, 2), torch.bfloat16)}
        writer = Writer(tmp_path, shapes)
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        rows = torch.arange(10.0).reshape(5, 2)
        writer.write_rows("c", 3, rows[3:])
        with pytest.raises(AssertionError, match="not written"):
            writer.close()
        writer.write_rows("c", 0, rows[:3])
        writer.close()
        found = load_file(tmp_path / WEIGHTS)
        assert torch.equal(found["a"], tensors["a"])
        assert torch.equal(found["b"], tensors["b"])
        assert torch.equal(found["c"], rows.bfloat16())

    def test_large_models_are_several_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("obliviate.writer.SHARD_BYTES", 100)
        writer = Writer(tmp_path, dict.fromkeys("abc", ((16,), torch.float32)))
        for number, name in enumerate("abc"):
            writer.write(name, torch.full((16,), float(number)))
        writer.close()
        index = read(tmp_path / "model.safetensors.index.json")
        assert index["metadata"] == {"total_size": 192}
        assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        assert load_file(tmp_path / index["weight_map"]["c"])["c"].tolist() == [2.0] * 16


class TestRounding:
    @pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0.0)])
    def test_a_small_step_is_undone_and_said_to_be(self, source: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
        """Two steps of at most 1.5e-6 each: bfloat16 numbers around 0.1 are 0.0005 apart."""
        written(run_of(source, tmp_path, 1e-6, lora=lora), tmp_path / "model")
        (warning,) = read(tmp_path / "run" / EXPORT_FILE)["warnings"]
        found = read(tmp_path / "run" / EXPORT_FILE)["rounding"]
        assert 0 <= found["kept"] < 0.1 * found["moved"]
        assert warning.startswith("model.export_dtype: source: rounding to bfloat16 undoes training: ")
        assert "set model.export_dtype: float32" in warning
        if lora is None:
            assert found["written"] == pytest.approx(found["before"], rel=1e-3)
            assert f"is {found['before']:.3g} before training" in warning

    def test_the_weights_are_those_that_were_trained_all_the_same(self, source: Path, tmp_path: Path) -> None:
        """Probabilities of other weights are asked for on the way."""
        found = written(run_of(source, tmp_path, 1e-6), tmp_path / "model")
        whole = written(run_of(source, tmp_path / "again", 1e-6, export_dtype="float32"), tmp_path / "whole")
        rounded, exact = load_file(found / WEIGHTS), load_file(whole / WEIGHTS)
        assert all(torch.equal(rounded[name], tensor.bfloat16()) for name, tensor in exact.items())
        assert read(tmp_path / "again" / "run" / EXPORT_FILE) == {"rounding": None, "warnings": [], "facts": None}

    def test_a_large_step_stays(self, source: Path, tmp_path: Path) -> None:
        written(run_of(source, tmp_path, 1e-2), tmp_path / "model")
        found = read(tmp_path / "run" / EXPORT_FILE)
        assert found["warnings"] == []
        assert found["rounding"]["kept"] > 0.6 * found["rounding"]["moved"]

    def test_card_and_evaluation_say_which_dtype(self, source: Path, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        written(run_of(source, tmp_path, 1e-6), directory / "model")
        values = {"model": {"source": str(source)}, "data": {"type": "fictitious"}, "method": "ga+gd"}
        config = build(UnlearnRun, values, where="test").model_dump(mode="json")
        record = {"verb": "unlearn", "label": "x", "config": config, "inputs": {}, "git_revision": None, "versions": {}}
        (directory / RUN_FILE).write_text(json.dumps(record))
        write_card(Run(directory, ""), "model")
        card = (directory / "model" / "README.md").read_text()
        assert "The weights are stored in bfloat16. Training moved " in card
        spec = ModelSpec(source=str(directory / "model"))
        assert of_dtype("m", spec, "bfloat16") == []
        (line,) = of_dtype("m", spec, "float32")
        assert line.startswith("evaluation.engine.dtype: float32: the weights of m are bfloat16: its figures hold for")


class TestFailure:
    def test_what_was_trained_is_kept_and_written_without_a_step(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = run_of(source, tmp_path)
        expected = load_file(written(run_of(source, tmp_path / "other"), tmp_path / "expected") / WEIGHTS)

        def refuse(*_: Any) -> None:
            raise ValueError("transformers does not like\nthis config")

        with monkeypatch.context() as broken:
            broken.setattr("obliviate.train.export.Plan.write_weights", refuse)
            with pytest.raises(UserError, match=r"could not be written .transformers does not like this config.; mend"):
                written(run, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        last = checkpoint.latest(run.directory / CHECKPOINTS)
        assert last is not None
        assert checkpoint.steps_of(last) == run.schedule.steps == 2
        assert len(read_steps(run.directory)) == 2
        monkeypatch.setattr("obliviate.train.loop._Trainer.step", refuse)
        found = load_file(written(run, tmp_path / "model") / WEIGHTS)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    def test_what_an_export_needs_is_checked_before_the_first_step(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(source / "generation_config.json", num_beams=2, num_return_sequences=3)
        monkeypatch.setattr("obliviate.companions._NAMED", re.compile("nothing to leave out"))
        with pytest.raises(
            UserError, match=r"^model\.source: generation_config\.json: transformers refuses to save it"
        ):
            written(run_of(source, tmp_path), tmp_path / "model")
        assert read_steps(tmp_path / "run") == []


def test_a_config_of_which_the_model_is_a_part_is_not_copied(tmp_path: Path, source: Path) -> None:
    """Another class than the file names: then transformers' own words, without how this process attends."""
    put(source / "config.json", architectures=["SomethingElse"])
    found = written(run_of(source, tmp_path), tmp_path / "model")
    config = read(found / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not any("attn_implementation" in key for key in config)
    assert config["use_cache"] is True
    assert LlamaConfig.from_pretrained(found).hidden_size == 32
