"""What is asked of a family: the same numbers as plain transformers gives for unpadded texts, one at a time.

Each check returns what it found, or raises: AssertionError where numbers differ, UserError where the family is refused.
Differences are of log-probabilities, in nats. Shapes: T tokens, V vocabulary.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from random import Random

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from obliviate.data.text import Encoded
from obliviate.inference.hf import HFEngine
from obliviate.schema import EngineSpec, GenerationSpec, LoraSpec, ModelSpec
from obliviate.scoring import Stat
from obliviate.train.export import export
from obliviate.train.loop import single_process
from obliviate.train.model import ScoredModel, build, checked
from obliviate.train.shards import local
from obliviate_serve.engine import Delta, Prompted, Sampling
from obliviate_serve.hf import HFServingEngine
from obliviate_serve.spec import ServingEngineSpec

LOGP = 1e-4  # nats, float32
DRAWN = 1e-3  # of a token drawn from a recurrent state, where transformers bounds a step's time otherwise than a text's
GRADIENT = 1e-3  # of the gradient's norm, per parameter
NEW = 12  # tokens to generate
CPU = torch.device("cpu")
RUN = torch.device("cuda") if torch.cuda.is_available() else CPU


def texts() -> list[Encoded]:
    """No two of a length, two behind one prompt; longer and shorter than windows, chunks and what rotations are
    scaled from."""
    random = Random(0)
    first, second, third = (tuple(random.choices(range(3, 380), k=n)) for n in (9, 3, 13))
    answers = [(first, 12), (first, 5), (second, 24), (third, 1)]
    return [Encoded(p + tuple(random.choices(range(3, 380), k=n)), len(p)) for p, n in answers]


def prompts() -> list[tuple[int, ...]]:
    return [text.prompt_ids for text in texts()[1:]]


@dataclass(frozen=True)
class Subject:
    """A model folder, and what plain transformers makes of it."""

    folder: Path

    @cached_property
    def plain(self) -> PreTrainedModel:
        return load(self.folder)

    @cached_property
    def logp(self) -> list[Tensor]:
        with torch.no_grad():
            return [plain_logp(self.plain, text) for text in texts()]

    def spec(self, **fields: object) -> ModelSpec:
        return ModelSpec(source=str(self.folder), compute_dtype="float32", max_length=64, **fields)


def load(folder: Path) -> PreTrainedModel:
    """Scaled dot products have no caps: where attention has one, what the model is meant to be is "eager"."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return model.eval()


def plain_logp(model: PreTrainedModel, text: Encoded) -> Tensor:
    """Of each answer token: float32, with a gradient."""
    logits_TV = model(torch.tensor([text.input_ids], device=model.device)).logits[0].float()
    logp_TV = logits_TV.log_softmax(-1)
    at = range(text.prompt_length, len(text.input_ids))
    return torch.stack([logp_TV[t - 1, text.input_ids[t]] for t in at]).cpu()


def same(found: Sequence[Sequence[float]], expected: Sequence[Tensor], what: str, tolerance: float = LOGP) -> None:
    furthest = max((torch.tensor(f) - e).abs().max().item() for f, e in zip(found, expected, strict=True))
    assert furthest < tolerance, f"{what}: log-probabilities differ by {furthest:.3g} nats"


def scored_logp(model: ScoredModel) -> list[Tensor]:
    """As a training step reads them: one batch, padded on the right, with gradients."""
    length = max(len(text.input_ids) for text in texts())
    ids_BT = torch.zeros(len(texts()), length, dtype=torch.long)
    attention_BT, answer_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
    for row, text in enumerate(texts()):
        ids_BT[row, : len(text.input_ids)] = torch.tensor(text.input_ids)
        attention_BT[row, : len(text.input_ids)] = 1
        answer_BT[row, text.prompt_length : len(text.input_ids)] = True
    wanted = {"all": (slice(None), answer_BT.to(RUN), {Stat.LOGP})}
    out = model(ids_BT.to(RUN), attention_BT.to(RUN), wanted, {})
    return [
        out[f"all/{Stat.LOGP}"][i, text.prompt_length : len(text.input_ids)].cpu() for i, text in enumerate(texts())
    ]


def trains(subject: Subject) -> bool:
    """Log-probabilities and gradients of a training step; whether its texts are packed."""
    plain = load(subject.folder).train(subject.plain.config.model_type == "rwkv")  # else it divides weights in place
    expected = [plain_logp(plain, text) for text in texts()]
    torch.cat(expected).mean().backward()
    with single_process():
        model = checked(build(subject.spec(), seed=0, activation_checkpointing=False, device=RUN))
        found = scored_logp(model)
        same([each.tolist() for each in found], subject.logp, "training")
        torch.cat(found).mean().backward()
        same_gradients(model, plain)
        bfloat16 = subject.spec().model_copy(update={"compute_dtype": "bfloat16"})
        half = checked(
            build(bfloat16, seed=0, activation_checkpointing=plain.supports_gradient_checkpointing, device=RUN)
        )
        loss = torch.cat(scored_logp(half)).mean()
        loss.backward()
        assert loss.isfinite(), "training in bfloat16: the loss is not finite"
        return model.packs


def same_gradients(model: ScoredModel, plain: PreTrainedModel) -> None:
    found = {
        name: parameter.grad.full_tensor().cpu()
        for name, parameter in model.causal_lm.named_parameters()
        if parameter.grad is not None
    }
    for name, parameter in plain.named_parameters():
        expected = parameter.grad
        if expected is None or expected.norm() < 1e-6:
            continue
        assert name in found, f"training: no gradient of {name}"
        relative = ((found[name] - expected).norm() / expected.norm()).item()
        assert relative < GRADIENT, f"training: the gradient of {name} differs by {relative:.2g} of its norm"


def saves(subject: Subject, folder: Path) -> None:
    """What is exported is, for plain transformers, the model that was trained."""
    with single_process():
        model = checked(build(subject.spec(), seed=0, activation_checkpointing=False, device=RUN))
        export(model, subject.spec(), folder)
    with torch.no_grad():
        found = [plain_logp(load(folder), text).tolist() for text in texts()]
    same(found, subject.logp, "the exported model")


def scores(subject: Subject) -> None:
    engine = HFEngine.open(subject.spec(), EngineSpec(dtype="float32", max_model_len=64))
    same([text.logp for text in engine.score(texts())], subject.logp, "scoring")
    half = HFEngine.open(subject.spec(), EngineSpec(dtype="bfloat16", max_model_len=64))
    assert all(isfinite(logp) for text in half.score(texts()) for logp in text.logp), "scoring in bfloat16: not finite"


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """By reading the whole text anew for each token: without any cache."""
    ids, stop = list(prompt), model.config.get_text_config().eos_token_id
    for _ in range(NEW):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == stop:
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


def generates(subject: Subject) -> None:
    engine = HFEngine.open(subject.spec(), EngineSpec(dtype="float32", max_model_len=64))
    found = engine.generate(prompts(), GenerationSpec(max_new_tokens=NEW))
    expected = [greedy(subject.plain, prompt) for prompt in prompts()]
    assert [g.token_ids for (g,) in found] == expected, "greedy generation differs"


def serves(subject: Subject) -> None:
    """Log-probabilities of a text that is echoed, and of two samples' tokens as they are drawn."""
    engine = HFServingEngine(subject.spec(), ServingEngineSpec(type="hf", dtype="float32", max_model_len=64), {})

    async def ask(ids: tuple[int, ...], sampling: Sampling) -> list[object]:
        return [event async for event in engine.stream(ids, sampling, None)]

    text = texts()[0]
    prompted = asyncio.run(ask(text.input_ids, Sampling(max_tokens=0, echo=True, logprobs=0)))[0]
    assert isinstance(prompted, Prompted)
    same([[token.logp for token in prompted.tokens[text.prompt_length :]]], subject.logp[:1], "serving")  # type: ignore[list-item]
    answer = asyncio.run(ask(prompts()[0], Sampling(max_tokens=NEW, temperature=0.0, n=2, logprobs=0)))
    tokens = [token for event in answer if isinstance(event, Delta) and event.choice == 1 for token in event.tokens]
    expected = greedy(subject.plain, prompts()[0])
    with torch.no_grad():  # each token behind those that were drawn before it
        read = [torch.tensor([[*prompts()[0], *expected[:n]]]) for n in range(len(expected))]
        logp = torch.stack([subject.plain(ids_1T).logits[0, -1].log_softmax(-1).max() for ids_1T in read])
    found = [[token.logp for token in tokens[: len(expected)]]]
    same(found, [logp], "what is served", DRAWN)  # type: ignore[arg-type]
    engine.close()


def adapts(subject: Subject, folder: Path) -> None:
    """Adapters that do something, merged and beside the base: for plain transformers and PEFT the model as trained."""
    for merge in (True, False):
        spec = subject.spec(lora=LoraSpec(rank=2, dropout=0.0, merge=merge))
        with single_process():
            model = checked(build(spec, seed=0, activation_checkpointing=False, device=RUN))
            scored_logp(model)[0].sum().backward()
            torch.manual_seed(0)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        local(parameter).normal_(std=0.05)
            with torch.no_grad():
                expected = [logp.detach() for logp in scored_logp(model.eval())]
            export(model, spec, folder / str(merge))
        assert (torch.cat(expected) - torch.cat(subject.logp)).abs().max() > 0.1, "the adapters do nothing"
        adapted = load(folder / "True") if merge else PeftModel.from_pretrained(load(subject.folder), folder / "False")
        with torch.no_grad():
            found = [plain_logp(adapted.eval(), text).tolist() for text in texts()]
        same(found, expected, "merged adapters" if merge else "adapters")
