"""Records of a model while it is trained, from the training's own forward passes: no step of an attack needs a model of
its own on disk, and no engine is started for it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from obliviate import storage
from obliviate.data.rows import EvaluationSet
from obliviate.data.text import Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate.inference.engine import Generation, ScoredText, WhiteBox
from obliviate.models import encoder_of, stop_ids
from obliviate.schema import GenerationSpec, ModelSpec
from obliviate.scoring import Stat
from obliviate_eval.collect import Sampling, collect
from obliviate_eval.records import read_records, records_file, write_records
from obliviate_eval.spec import SamplingSpec
from obliviate_eval.suites.base import Suite

if TYPE_CHECKING:
    import torch

    from obliviate.train.model import ScoredModel


@dataclass(frozen=True)
class Watched:
    """Satisfies obliviate.train.job.Watch. `directory`: what every node calls the folder of the records."""

    steps: tuple[int, ...]
    directory: str
    model: ModelSpec
    sets: tuple[EvaluationSet, ...]
    suite: Suite
    generation: GenerationSpec
    batch_tokens: int

    @property
    def done(self) -> bool:
        return all(_is_readable(storage.fetch(self._file(step))) for step in self.steps)

    def __call__(self, model: "ScoredModel", step: int) -> None:
        import torch.distributed as dist

        encoder = encoder_of(self.model)
        ends = stop_ids(self.model, encoder.tokenizer)
        # The suite asks for nothing that takes more than scoring and greedy generation.
        engine = cast(WhiteBox, TrainedEngine(model, encoder, ends, self.batch_tokens))
        sampling = Sampling(self.generation, SamplingSpec())
        records = collect(engine, encoder, self.sets, self.suite, sampling, lambda stage, done, total: None)
        if dist.get_rank() == 0:
            write_records(self._file(step), records)

    def _file(self, step: int) -> Path:
        return storage.local(self.directory) / records_file(step)


def _is_readable(file: Path) -> bool:
    """Of a run that was cut off: what a damaged file held is measured again."""
    try:
        read_records(file)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class TrainedEngine:
    """Satisfies Engine, with the model that a training has in memory. Every worker calls it alike."""

    model: "ScoredModel"
    encoder: TextEncoder
    stop_ids: Collection[int]
    batch_tokens: int

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        import torch

        found: dict[int, ScoredText] = {}
        with torch.no_grad():
            for batch in self._batches([len(text.input_ids) for text in texts], self.batch_tokens):
                found |= zip(batch, self._score([texts[index] for index in batch]), strict=True)
        return [found[index] for index in range(len(texts))]

    def _score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        import torch

        ids_BT, real_BT = self._padded([text.input_ids for text in texts], left=False)
        wanted_BT = torch.zeros_like(real_BT)
        for row, text in enumerate(texts):
            wanted_BT[row, text.prompt_length : len(text.input_ids)] = True
        stats = (Stat.LOGP, Stat.RIVAL)
        out = self.model(ids_BT, real_BT.long(), {"text": (slice(None), wanted_BT, stats)}, {})
        logp_BT, rival_BT = (out[f"text/{stat}"].float().cpu() for stat in stats)
        return [
            ScoredText(tuple(logp_T.tolist()), tuple((logp_T >= rival_T).tolist()))
            for logp_T, rival_T in (
                (logp_BT[row, wanted_T], rival_BT[row, wanted_T]) for row, wanted_T in enumerate(wanted_BT.cpu())
            )
        ]

    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        """Greedy."""
        import torch

        found: dict[int, list[Generation]] = {}
        room = sampling.max_new_tokens or max(1, (sampling.max_length or 0) - max(map(len, prompts), default=0))
        with torch.no_grad():
            sizes = [len(prompt) + room for prompt in prompts]
            for batch in self._batches(sizes, 0 if self.model.asked_alone else self.batch_tokens):
                ids_BT, real_BT = self._padded([prompts[index] for index in batch], left=True)
                said_BT = self.model.say(ids_BT, real_BT.long(), room, self.stop_ids)[:, ids_BT.shape[1] :]
                found |= zip(batch, ([self._said(ids)] for ids in said_BT.tolist()), strict=True)
        return [found[index] for index in range(len(prompts))]

    def _said(self, ids: Sequence[int]) -> Generation:
        end = next((place for place, each in enumerate(ids) if each in self.stop_ids), None)
        kept = tuple(ids[:end])
        text: str = self.encoder.tokenizer.decode(list(kept), skip_special_tokens=True)
        return Generation(text, kept, end is not None)

    def _batches(self, sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
        """Of texts of like length; a budget of 0 leaves each alone."""
        from obliviate.inference.reader import batches

        return batches(sorted(range(len(sizes)), key=lambda i: -sizes[i]), sizes, budget)

    def _padded(self, texts: Sequence[tuple[int, ...]], *, left: bool) -> "tuple[torch.Tensor, torch.Tensor]":
        from obliviate.inference.reader import pad

        return pad(texts, self.model.causal_lm.device, left=left)
