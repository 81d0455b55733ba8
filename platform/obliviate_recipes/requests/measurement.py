"""What a batch is judged by: each request's figures on its own texts, and the figures of what must be kept."""

from pydantic import Field

from obliviate.schema import Spec
from obliviate_eval.statistics import Figure


class Measurement(Spec):
    """Of one model. A figure that can't be computed has the value None."""

    evaluation: str  # folder of the evaluation run: records of every answer
    requests: dict[int, dict[str, Figure]]  # request -> metric or aggregate -> on its texts
    kept: dict[str, Figure]  # aggregate, or SET.METRIC
    attacks: dict[str, Figure] = Field(default={})  # ATTACK.MEASURE -> excess recovery of the batch's texts
