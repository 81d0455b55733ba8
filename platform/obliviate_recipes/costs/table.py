"""The tables of docs/scaling.md: `python -m obliviate_recipes.costs.table` prints them.

Published shapes of Llama 3.1 and 3.2 and of Qwen 2.5; one job of each kind on TOFU's forget10.
"""

from obliviate.models import ModelSize
from obliviate_recipes.costs.estimate import Part, measured, trained
from obliviate_recipes.costs.evaluation import InferenceWork
from obliviate_recipes.costs.hardware import GPUS, Cluster
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import Measured, Trained

# parameters, trained, layers, hidden size, vocabulary, tied
SIZES = {
    "1B": ModelSize(1_235_814_400, 1_235_814_400, 16, 2048, 128_256, True),
    "3B": ModelSize(3_212_749_824, 3_212_749_824, 28, 3072, 128_256, True),
    "8B": ModelSize(8_030_261_248, 8_030_261_248, 32, 4096, 128_256, False),
    "14B": ModelSize(14_770_033_664, 14_770_033_664, 48, 5120, 152_064, False),
    "32B": ModelSize(32_763_876_352, 32_763_876_352, 64, 5120, 152_064, False),
    "70B": ModelSize(70_553_706_496, 70_553_706_496, 80, 8192, 128_256, False),
}
COUNTS = (1, 8, 32, 64, 128, 512)
STEPS, ITEMS, TOKENS = 62, 32, 60.0  # five epochs of 400 rows at batch 32; a question with its answer
TRIALS = 512
CLUSTER = Cluster(GPUS["h100"], host_memory_bytes=2e12)  # the memory that such nodes are rented with


def unlearning(size: ModelSize, gpus: int) -> Part:
    """ME+GD as published. Every worker needs an item of each batch: more than 32 would have nothing to do."""
    work = TrainingWork(size, STEPS, ITEMS, 4, 2, TOKENS, TOKENS - 1, checkpointing=True)
    return trained(Trained("unlearn", work, min(gpus, ITEMS)), CLUSTER)


def evaluation(size: ModelSize, gpus: int, repeats: int = 1, at_a_time: int = 1) -> Part:
    """300 forget and 300 retain items, 100 real authors, 117 world facts: 817 questions, seven scored texts each at
    most, as few GPUs to a replica as hold it."""
    for split in (1, 2, 4, 8):
        work = InferenceWork(size, 817, 40, 160, 5500, TOKENS, max(1, gpus // split), min(split, gpus))
        part = measured(Measured("evaluate", work), CLUSTER, repeats, at_a_time)
        if part.fits:
            break
    return part


def sweep(size: ModelSize, gpus: int) -> list[Part]:
    """Training and measuring of 512 trials, each on as few GPUs as hold it; empty where not one trial fits."""
    work = TrainingWork(size, STEPS, ITEMS, 4, 2, TOKENS, TOKENS - 1, checkpointing=True)
    for workers in (each for each in (1, 2, 4, 8, 16, 32) if each <= gpus):
        together = min(TRIALS, gpus // workers)
        parts = [trained(Trained("train", work, workers), CLUSTER, TRIALS, together)]
        parts.append(evaluation(size, workers, TRIALS, together))
        if all(part.fits for part in parts):
            return parts
    return []


def cell(part: Part) -> str:
    if not part.fits:
        return f"{part.limit}"
    return f"{part.s / 60:.1f} min, {part.gpu_hours:.2f} h: {part.limit}"


def sweep_cell(size: ModelSize, gpus: int) -> str:
    found = sweep(size, gpus)
    if not found:
        return "GPU memory" if gpus < 32 else unlearning(size, gpus).limit
    longest = max(found, key=lambda part: part.s)
    hours = sum(part.s for part in found) / 3600
    return f"{hours:.2g} h, {found[0].gpus:g} each: {longest.limit} ({longest.title})"


def tables() -> str:
    """Markdown."""
    head = "| model | " + " | ".join(f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in COUNTS) + " |\n"
    head += "|---" * (len(COUNTS) + 1) + "|\n"
    parts = []
    for of in (lambda s, g: cell(unlearning(s, g)), lambda s, g: cell(evaluation(s, g)), sweep_cell):
        rows = [f"| {name} | " + " | ".join(of(size, gpus) for gpus in COUNTS) + " |" for name, size in SIZES.items()]
        parts.append(head + "\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(tables(), end="")
