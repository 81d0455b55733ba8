"""A model between two, and how far from the original it may be."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from obliviate.arithmetic import combine, interpolate
from obliviate.errors import UserError
from obliviate.weights import INDEX, weight_files
from obliviate_recipes.sweeps.calibrate import largest_share
from tiny import tiny_model_folder


def folder(path: Path, shards: list[dict[str, torch.Tensor]]) -> Path:
    """A model in as many files as there are shards, with an index where it is more than one."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, path / name)
    return path


def test_a_quarter_of_the_way_whatever_the_shards_are(tmp_path: Path) -> None:
    """a: 0 -> 4 gives 1; b: 2 -> -2 gives 1; in float32, also where a side is stored in bfloat16."""
    a, b = torch.zeros(2, 2), torch.full((3,), 2.0)
    original = folder(tmp_path / "original", [{"a": a, "b": b.bfloat16()}])
    unlearned = folder(tmp_path / "unlearned", [{"a": a + 4}, {"b": b - 4}])
    interpolate(original, unlearned, 0.25, tmp_path / "mixed")
    files = weight_files(tmp_path / "mixed")
    assert sorted(path.name for path in set(files.values())) == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    mixed = {name: load_file(path)[name] for name, path in files.items()}
    assert torch.equal(mixed["a"], torch.ones(2, 2))
    assert torch.equal(mixed["b"], torch.ones(3))
    assert mixed["b"].dtype == torch.float32
    assert (tmp_path / "mixed" / "config.json").exists()


def test_what_is_no_floating_point_number_stays_what_it_is_and_so_do_named_templates(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", [{"a": torch.ones(2), "count": torch.tensor([3, 4])}])
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (source / "README.md").write_text("how that one was made")
    combine([source], lambda _, tensors: tensors[0], tmp_path / "found", torch.float16)
    found = load_file(tmp_path / "found" / "model.safetensors")
    assert found["a"].dtype == torch.float16
    assert found["count"].tolist() == [3, 4]
    assert found["count"].dtype == torch.int64
    assert json.loads((tmp_path / "found" / "config.json").read_text()) == {"dtype": "float16"}
    assert (tmp_path / "found" / "additional_chat_templates" / "tools.jinja").exists()
    assert not (tmp_path / "found" / "README.md").exists()


@pytest.mark.parametrize(("share", "like"), [(0.0, "one"), (1.0, "two")])
def test_the_ends_are_the_models_themselves(tmp_path: Path, share: float, like: str) -> None:
    from transformers import AutoModelForCausalLM

    tiny_model_folder(tmp_path / "one", seed=1)
    tiny_model_folder(tmp_path / "two", seed=2)
    interpolate(tmp_path / "one", tmp_path / "two", share, tmp_path / "mixed")
    found, expected = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("mixed", like))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_other_tensors_cannot_be_mixed(tmp_path: Path) -> None:
    first = folder(tmp_path / "first", [{"a": torch.zeros(2)}])
    with pytest.raises(UserError, match="b is not in both this model and"):
        interpolate(first, folder(tmp_path / "more", [{"a": torch.zeros(2), "b": torch.zeros(1)}]), 0.5, tmp_path / "x")
    with pytest.raises(UserError, match=r"a has shape \[3\], in .*first \[2\]"):
        interpolate(first, folder(tmp_path / "wide", [{"a": torch.zeros(3)}]), 0.5, tmp_path / "x")
    two = folder(tmp_path / "two", [{"a": torch.zeros(2), "b": torch.ones(2)}])
    with pytest.raises(UserError, match="b is not in both"):  # nor is it another name of a
        interpolate(two, first, 0.5, tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        interpolate(first, tmp_path / "empty", 0.5, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_by_halving() -> None:
    """Utility falls from 1 to 0 along the way and 0.6 is needed: 0.4 lies between 12/32 and 13/32."""
    asked: list[float] = []

    def at(share: float) -> tuple[float, float]:
        asked.append(share)
        return share, 1 - share

    share, pair = largest_share(at, 0.6, (0.0, 1.0), (1.0, 0.0))
    assert asked == [0.5, 0.25, 0.375, 0.4375, 0.40625]
    assert share == 0.375
    assert pair == (0.375, 0.625)


def test_a_model_that_is_useful_enough_stays_as_it_is() -> None:
    def never(share: float) -> tuple[float, float]:
        raise AssertionError(share)

    assert largest_share(never, 0.5, (0.0, 1.0), (0.9, 0.5)) == (1.0, (0.9, 0.5))


@given(st.floats(0, 1), st.floats(0.1, 3))
def test_what_is_found_keeps_what_is_needed_and_the_next_step_would_not(needed: float, power: float) -> None:
    def at(share: float) -> tuple[float, float]:
        return share, 1 - share**power

    share, (_, utility) = largest_share(at, needed, (0.0, 1.0), at(1.0))
    assert utility >= needed
    assert share == 1.0 or at(share + 1 / 32)[1] < needed
