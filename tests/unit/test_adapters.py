"""From requests to one fused model, the adapters trained one after another in this process instead of on Ray."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import RayTaskError, WorkerCrashedError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from moe import gpt2_folder, moe_folder
from obliviate.config import build
from obliviate.data.rows import Row, write_rows
from obliviate.errors import UserError
from obliviate.fusion import GRAMS, WEIGHTS
from obliviate.runs import Run, write_json
from obliviate.schema import ClusterSpec
from obliviate.train import adapters
from obliviate.train.worker import Outcome
from obliviate_recipes.fuse import FuseRun
from obliviate_recipes.reporting import UNLEARNING
from obliviate_recipes.stages.alternatives import SAMPLES, Alternatives
from recipes import Told, fused


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the requests whose adapters were trained."""
    names: list[str] = []

    def here(requests: Mapping[str, adapters.AdapterJob], _: Any, __: int, on_done: Callable[[str], None]) -> None:
        for name, request in requests.items():
            outcome = adapters.train_adapter(request, request.places, threads=1)
            if outcome.error is not None:
                raise UserError(outcome.error)
            names.append(name)
            on_done(name)

    monkeypatch.setattr(adapters, "launch_adapters", here)
    return names


def config(tiny: Path, folder: Path, *names: str, **keys: Any) -> FuseRun:
    write_rows(folder / "retain.jsonl", [Row(f"Who wrote book {i}?", f"Eve wrote book {i}.") for i in range(4)])
    for name in names:
        rows = [Row(f"Where does {name} live in year {i}?", f"{name} lives in London.") for i in range(4)]
        write_rows(folder / f"{name}.jsonl", rows)
    values = {
        "model": {"source": str(tiny), "compute_dtype": "float32", "max_length": 64, "lora": {"rank": 2}},
        "requests": {
            name: {"type": "files", "forget": f"{folder}/{name}.jsonl", "retain": f"{folder}/retain.jsonl"}
            for name in names
        },
        "method": "eul",
        "optim": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "warmup_steps": 0},
        "runs": str(folder / "runs"),
        **keys,
    }
    return build(FuseRun, values, where="test")


def test_requests_become_one_model_and_a_withdrawn_one_costs_no_training(
    tiny: Path, tmp_path: Path, trained: list[str]
) -> None:
    both = fused(config(tiny, tmp_path, "Ada", "Bob"))
    one = fused(config(tiny, tmp_path, "Ada"))
    assert trained == ["Ada", "Bob"]
    before, together, alone = (AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (tiny, both, one))
    assert torch.equal(together["model.norm.weight"], before["model.norm.weight"])
    # a single adapter is fused to itself: the merged change is its own, alpha / rank x B A
    run = next((tmp_path / "runs").glob("adapter-ada-*"))
    kept, grams = load_file(run / "model" / WEIGHTS), load_file(run / GRAMS)
    assert {name for name in kept if ".lora_A." in name} == set(grams)
    moved = 0.0
    for name, gram_DD in grams.items():
        layer = name.removesuffix(".lora_A.weight")
        weight = f"{layer.removeprefix('base_model.model.')}.weight"
        own = 32 / 2 * kept[f"{layer}.lora_B.weight"] @ kept[name]
        torch.testing.assert_close(alone[weight] - before[weight], own, rtol=1e-3, atol=1e-5)
        assert not torch.equal(together[weight], alone[weight])
        torch.testing.assert_close(gram_DD, gram_DD.T)
        moved += float(own.norm())
    assert moved > 0
    assert "Ada, Bob asked to forget" in (both / "README.md").read_text()
    assert "fuse" in UNLEARNING


def test_conv1d_is_fused_like_any_layer(tmp_path: Path, trained: list[str]) -> None:
    """GPT-2: a single adapter is fused to itself, and merged into weights of [inputs, outputs]."""
    folder = gpt2_folder(tmp_path / "model")
    whole = fused(config(folder, tmp_path, "Ada"))
    before, after = (AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (folder, whole))
    run = next((tmp_path / "runs").glob("adapter-ada-*"))
    kept, grams = load_file(run / "model" / WEIGHTS), load_file(run / GRAMS)
    assert len(grams) == 2 * 4
    for name in grams:
        layer = name.removesuffix(".lora_A.weight")
        weight = f"{layer.removeprefix('base_model.model.')}.weight"
        own = 32 / 2 * kept[f"{layer}.lora_B.weight"] @ kept[name]
        assert own.any()
        torch.testing.assert_close(after[weight] - before[weight], own.T, rtol=1e-3, atol=1e-5)


def test_experts_are_refused_before_training(tmp_path: Path, trained: list[str]) -> None:
    folder = moe_folder(tmp_path / "model", "qwen2_moe")
    with pytest.raises(
        UserError, match=r"^model\.source: .*: model\.layers\.0\.mlp\.\S+ belongs to a mixture of experts"
    ):
        fused(config(folder, tmp_path, "Ada", "Bob"))
    assert trained == []


class Scripted:
    """In Ray's place, for tasks: each is done as soon as it is begun, and raises what its request's name says."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        self.errors = errors

    def options(self, **_: Any) -> "Scripted":
        return self

    def remote(self, name: Any, *_: Any) -> str:
        return str(name)

    def get(self, name: str) -> Outcome:
        if name in self.errors:
            raise self.errors[name]
        return Outcome()


class Named(str):
    places = ("", "")


def test_a_training_that_fails_is_named_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was raised in it: the last line of that, as Ray tells it, and no traceback."""
    cause = RuntimeError("CUDA error: out of memory")
    raised = RayTaskError("train", f"Traceback:\n  File x\n{cause!r}\n", cause).as_instanceof_cause()
    tasks = Scripted({"Ada": raised, "Eve": WorkerCrashedError()})
    monkeypatch.setattr("ray.remote", lambda _: tasks)
    monkeypatch.setattr("ray.get", tasks.get)
    monkeypatch.setattr("ray.wait", lambda names: (names[:1], names[1:]))
    for name in ("ensure_ray", "check_resources"):
        monkeypatch.setattr(adapters, name, lambda *_: None)
    requests: Any = {name: Named(name) for name in ("Ada", "Bob", "Eve", "Kim")}
    done: list[str] = []
    with pytest.raises(UserError) as error:
        adapters.launch_adapters(requests, ClusterSpec(cpus_per_worker=1, gpus_per_worker=0), 2, done.append)
    assert done == ["Bob", "Kim"]
    ada, eve = str(error.value).split("; ")
    assert ada == "requests.Ada: its training failed with: RuntimeError('CUDA error: out of memory')"
    assert eve.startswith("requests.Eve: its process died 3 times")


def test_an_earlier_requests_run_is_fused_with_new_ones(tiny: Path, tmp_path: Path, trained: list[str]) -> None:
    """To the same model as had both been asked for at once; without merging, an adapter remains."""
    lora = {"source": str(tiny), "compute_dtype": "float32", "max_length": 64, "lora": {"rank": 2, "merge": False}}
    whole = fused(config(tiny, tmp_path, "Ada", "Bob", model=lora))
    (run,) = (tmp_path / "runs").glob("adapter-ada-*")
    later = fused(config(tiny, tmp_path, "Bob", model=lora, adapters={"Ada": str(run)}))
    assert trained == ["Ada", "Bob"]
    assert (whole.name, later.name) == ("adapter", "adapter")
    one, two = load_file(whole / WEIGHTS), load_file(later / WEIGHTS)
    for name in one:
        if ".lora_A." in name:
            a, b = name, name.replace(".lora_A.", ".lora_B.")
            torch.testing.assert_close(one[b] @ one[a], two[b] @ two[a], rtol=1e-4, atol=1e-5)
    revised = {**lora, "revision": "v2"}
    with pytest.raises(
        UserError, match=r"adapters\.Ada: .* revision None of its base model, and model\.revision is v2"
    ):
        fused(config(tiny, tmp_path, model=revised, adapters={"Ada": str(run)}))
    with pytest.raises(UserError, match=r"adapters\.Eve: .*nowhere: is no run"):
        fused(config(tiny, tmp_path, "Bob", model=lora, adapters={"Eve": str(tmp_path / "nowhere")}))


def test_what_prepares_a_request_is_made_before_its_adapter(
    tiny: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AltPO's other answers are sampled first, once for each request; no adapter is said to be done already that was
    trained just now."""
    sampled: list[str] = []

    def make(stage: Alternatives, run: Run, events: Any) -> dict[str, Any]:
        sampled.append(stage.label)
        write_json(run.directory / SAMPLES / "000000.json", {place: ["In Rome."] for place in stage.places})
        return {}

    monkeypatch.setattr(Alternatives, "make", make)
    told, asked = Told(), config(tiny, tmp_path, "Ada", "Bob", method="altpo+gd")
    fused(asked, told)
    assert (sampled, trained) == (["Ada", "Bob"], ["Ada", "Bob"])
    assert "done already" not in told.text
    again = Told()
    fused(asked, again)
    assert "fuse 2 adapters: done already" in again.text
    assert trained == ["Ada", "Bob"]
