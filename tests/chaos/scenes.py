"""What is disturbed: commands as a user gives them, on models so small that starting processes is most of what they
cost."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.traces import environment
from obliviate.data.rows import read_rows
from obliviate_recipes.requests.certificate import make_key
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from tiny import tiny_model_folder, tiny_sources

OBLIVIATE = str(Path(sys.executable).with_name("obliviate"))
ENDS_WITHIN_S = 300.0
# Of what is compared bit for bit: models, records, figures. Logs and reports tell when they were made.
RESULTS = re.compile(r"\.safetensors$|records[^/]*\.parquet$|(metrics|robustness|before|after)\.json$")
CLAIMED = re.compile(r"-\d{8}T\d{6}")  # when a batch was claimed, in the name of its folder


@dataclass(frozen=True)
class Scene:
    """A command, and the folder that it works in. Each try is made in the same place, so that paths are the same."""

    verb: str
    values: Mapping[str, Any]
    folder: Path
    scratch: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def command(self) -> list[str]:
        waits = ["--wait"] if self.verb == "request run" else []  # until a runner that was killed is taken for dead
        return [OBLIVIATE, *self.verb.split(), str(self.folder / "config.yaml"), *waits]

    def clear(self) -> None:
        """As if the command had never been given; where it works off requests, there are two, of one text each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for each in self.folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        (self.folder / "config.yaml").write_text(json.dumps({**self.values, "runs": str(self.runs)}))
        if "ledger" in self.values:
            ledger = Ledger(self.values["ledger"], create=True)
            for requester, row in zip(("ann", "bob"), read_rows(self.values["data"]["forget"]), strict=False):
                ledger.add("production", self.values["model"]["source"], requester, [text_hash(row)])

    def start(self, prefix: Sequence[str] = (), **more: str) -> "subprocess.Popen[str]":
        """As the leader of a group of its own, as a shell does it. `prefix` is what runs it."""
        return subprocess.Popen(
            [*prefix, *self.command], cwd=self.folder, env=environment(self.scratch) | more, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self, prefix: Sequence[str] = (), **more: str) -> str:
        """Give the command, and expect it to end well; what it said."""
        with self.start(prefix, **more) as process:
            try:
                out, _ = process.communicate(timeout=ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, f"{self.verb} ended with {process.returncode}: {out[-2000:]}"
        return out

    @property
    def results(self) -> dict[str, str]:
        """Name of a file -> a hash of its bytes."""
        return {
            CLAIMED.sub("", path.relative_to(self.folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and RESULTS.search(path.name)
        }


class Scenes:
    """By name; the model and the data that they share lie in `place`."""

    def __init__(self, place: Path, scratch: Path) -> None:
        self._place, self._scratch = place, scratch
        tiny_sources(place)
        for seed, name in enumerate(("other", "third"), 1):
            tiny_model_folder(place / name, seed=seed)
        make_key(place / "key.pem")
        self._model = {"source": str(place / "model"), "compute_dtype": "float32", "max_length": 64}
        self._data = {"type": "files", "forget": f"{place}/forget.jsonl", "retain": f"{place}/retain.jsonl"}
        self._optim = {"learning_rate": 1e-3, "epochs": 4, "batch_size": 4, "micro_batch_size": 2}
        self._measured = {
            "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "chunk_size": 2},
            "generation": {"max_new_tokens": 8}, "encoder": None, "nli": None, "fluency": None, "resamples": 100,
        }  # fmt: skip
        self._cluster = {"address": "local", "cpus_per_worker": 0.5}

    def __getitem__(self, name: str) -> Scene:
        values: dict[str, Any] = getattr(self, f"_{name}")()
        return Scene(name.replace("_", " "), values, self._place / name, self._scratch)

    def _unlearn(self) -> dict[str, Any]:
        optim = {**self._optim, "epochs": 20, "checkpoint_every_steps": 1}
        return {
            "model": self._model, "data": self._data, "method": "npo+kl", "optim": optim, "cluster": self._cluster,
        }  # fmt: skip

    def _evaluate(self) -> dict[str, Any]:
        return {
            "models": {"one": self._model, "other": {**self._model, "source": f"{self._place}/other"}},
            "data": self._data, "evaluation": self._measured, "address": "local",
        }  # fmt: skip

    def _compare(self) -> dict[str, Any]:
        return {
            "model": self._model, "data": self._data, "methods": ["ga+gd", "me+gd"], "optim": self._optim,
            "finetune": {"optim": self._optim}, "evaluation": self._measured, "cluster": self._cluster,
        }  # fmt: skip

    def _attack(self) -> dict[str, Any]:
        """Of a model that is there, beside two others."""
        others = {name: {**self._model, "source": f"{self._place}/{name}"} for name in ("other", "third")}
        return {
            "model": self._model, "retain_model": others["other"], "models": {"third": others["third"]},
            "data": self._data,
            "attacks": [
                {"type": "relearn", "learning_rates": [1e-2], "steps": [1, 2], "batch_size": 2},
                {"type": "quantise", "formats": ["int8"]},
            ],
            "budget": {"utility_drop": 1.0}, "evaluation": {**self._measured, "suite": "robustness"},
            "cluster": self._cluster,
        }  # fmt: skip

    def _sweep(self) -> dict[str, Any]:
        return {
            "model": self._model, "data": self._data, "optim": self._optim, "evaluation": self._measured,
            "space": {"methods": {"ga+gd": {}}, "shared": {"optim.learning_rate": [1e-3, 1e-2]}},
            "signal": {"points": 4, "rows": 8}, "cluster": self._cluster,
        }  # fmt: skip

    def _request_run(self) -> dict[str, Any]:
        """Two batches of a request each; a runner that was killed is taken for dead after some seconds."""
        folder = self._place / "request_run"
        return {
            "model": self._model, "data": self._data, "method": "ga+gd", "optim": self._optim,
            "evaluation": self._measured, "cluster": self._cluster, "ledger": f"{folder}/ledger.sqlite",
            "aliases": f"{folder}/aliases.json", "key": f"{self._place}/key.pem", "batch_requests": 1, "lease_s": 5,
            "policy": {
                "forget": {"probability": {"max": 1, "allow": True}},
                "utility": {"retain.rouge": {"min": 0, "allow": True}},
            },
        }  # fmt: skip
