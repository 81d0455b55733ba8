"""Training runs small enough for a unit test: rows, jobs, and every method, for a model that knows nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from obliviate.data.rows import Row
from obliviate.methods import (
    AP,
    CEU,
    DPO,
    ELM,
    EUL,
    FLAT,
    GA,
    GD,
    ICKU,
    IDK,
    IHL,
    JS,
    KFADE,
    KL,
    LUNAR,
    ME,
    NPO,
    PDU,
    RMU,
    SHRED,
    UNDIAL,
    WGA,
    WHP,
    Activations,
    AdaptiveRMU,
    AltPO,
    BoundedGD,
    CircuitBreakers,
    Disassociation,
    Distance,
    Distortion,
    Divergence,
    JensUn,
    Marked,
    Mismatch,
    MLPBreaking,
    Orthogonal,
    Positions,
    RepNoise,
    Representations,
    RepSelect,
    SatImp,
    SimNPO,
    TaskVector,
    Term,
    Unilogit,
    Wasserstein,
    World,
    needs_reinforced,
)
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.shards import whole

FORGET = tuple(
    Row(
        f"Where does person {i} live?",
        f"Person {i} lives in London{' today' * (i % 3)}.",
        entity=f"person {i}",
        alternatives=tuple(f"Person {i} lives in {city}." for city in ("Paris", "Kuwait City")[: 1 + i % 2]),
    )
    for i in range(8)
)
RETAIN = tuple(Row(f"Who wrote book {i}?", f"Ada wrote book {i}.") for i in range(10))
WORLD = tuple(Row(f"Add {i} and {i}.", f"The sum is {2 * i}.") for i in range(6))
REFUSALS = ("I do not know.", "I am not sure about that.")
METHODS: dict[str, tuple[Term, ...]] = {
    "ga+gd": (GA(), GD()),
    "npo+kl": (NPO(), KL()),
    "dpo+gd": (DPO(), GD()),
    "idk+ap": (IDK(), AP()),
    "me+gd": (ME(), GD()),
    "llmu": (GA(), Mismatch(), KL()),
    "simnpo+gd": (SimNPO(beta=0.5), GD()),
    "wga+gd": (WGA(), GD()),
    "satimp+gd": (SatImp(beta1=0.5), GD()),  # defaults are for models that know the answers: here p^5 is nothing
    "undial": (UNDIAL(),),
    "ceu": (CEU(),),
    "pdu": (PDU(), BoundedGD(weight=2, epsilon=1, step=0.5, warmup=0.25)),
    "rmu": (RMU(layer=0), Activations(layer=0)),
    "adaptive_rmu+kl": (AdaptiveRMU(layer=1, positions=Positions.SEQUENCE), KL(positions=Positions.ANSWER)),
    "rmu+activations+kl": (RMU(layer=0), Activations(layer=1, positions=Positions.SEQUENCE), KL()),
    "altpo+gd": (AltPO(), GD()),
    "sku": (TaskVector(), Disassociation(), Divergence(bound=2)),
    "flat": (FLAT(divergence="jensen_shannon"),),
    "jensun": (JensUn(), JS()),
    "ihl+gd": (IHL(), GD()),
    "unilogit+gd": (Unilogit(), GD()),
    "whp+kl": (WHP(), KL()),
    "icku": (ICKU(), Marked()),
    "eul": (EUL(bound=0.5), KL(), GD()),
    "repselect": (RepSelect(eta=0.1, steps=3, rank=4),),
    "kfade": (KFADE(eta=0.1, steps=3, damping=1.0, texts=5),),
    "lunar": (LUNAR(layer=1, ridge=0.1, texts=5),),
    "distortion+kl": (Distortion(), GD(), KL()),
    "distance+gd": (Distance(weight=30), GD()),
    # Where it starts, a cosine of 1 has no gradient but rounding's, which AdamW would make a whole step of: so with GD.
    "circuit_breakers+gd": (
        CircuitBreakers(layers=(0, 1)),
        Representations(layers=(0, 1)),
        Orthogonal(layers=(1,)),
        GD(),
    ),
    "shred": (SHRED(top=20, skip=1),),
    "mlp_breaking": (
        MLPBreaking(layers=("model.layers.0.mlp", "model.layers.1.mlp"), without=3),
        Representations(layers=(1,), relative=True, ramp=(1, 1)),
    ),
    "rmu+mcu": (RMU(layer=1, without=4, positions=Positions.SEQUENCE), Activations(layer=1)),
    "repnoise": (RepNoise(layers=("model.layers.0.mlp", 1), noise=0.5), GD()),
    "elm": (ELM(eta=3, novice="For a child.", expert="For an expert."), KL()),
    "opt_out": (NPO(reduction="mean"), GD(), World(), Wasserstein()),
}


def job(tiny: Path, directory: Path, terms: tuple[Term, ...] = (GA(), GD()), **optim: Any) -> Job:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4, "micro_batch_size": 2, **optim}
    model = ModelSpec(source=str(tiny), compute_dtype="float32", max_length=64)
    reinforced = model if needs_reinforced(terms) else None
    rows = (FORGET, RETAIN, REFUSALS)
    return Job(model, terms, *rows, OptimSpec(**settings), 0, "fresh", directory, world=WORLD, reinforced=reinforced)


def quiet(_: Mapping[str, Any]) -> None: ...


def losses(job: Job) -> list[float]:
    """Of every step and term: their sum may cancel to nearly nothing, where no relative tolerance holds."""
    train(job, quiet)
    return [part for line in read_steps(job.directory) for part in line["parts"].values()]


def whole_and_resumed(make: Callable[[str], Job]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a training that is made for a folder ends with, undisturbed and killed at its third step."""

    def dies(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    whole = weights(train(make("whole"), quiet))
    with pytest.raises(KeyboardInterrupt):
        train(make("cut"), dies)
    return whole, weights(train(make("cut"), quiet))


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: whole(value).clone() for name, value in model.state_dict().items()}  # buffers are whole already
