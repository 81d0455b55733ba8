"""Where a run's figures go besides its folder: the key `tracking` of every config that trains or measures."""

from typing import Annotated, Literal

from pydantic import Field

from obliviate.config_file import RunSpec
from obliviate.schema import Spec, later

Project = Annotated[str, Field(min_length=1)]


class TensorBoardTracking(Spec):
    """Files that `tensorboard --logdir FOLDER` shows. Of files, such as reports, it shows where they lie."""

    type: Literal["tensorboard"] = "tensorboard"
    folder: str | None = None  # None: tensorboard/ in the folder of all runs


class WandbTracking(Spec):
    """Weights & Biases: pip install 'obliviate[wandb]'."""

    type: Literal["wandb"] = "wandb"
    project: Project = "obliviate"
    entity: str | None = None  # user or team; None: the account's own
    mode: Literal["online", "offline"] = "online"  # offline: wandb/ in the folder of all runs, for `wandb sync`


class TrackioTracking(Spec):
    """Trackio: pip install 'obliviate[trackio]'. Kept on this machine, for `trackio show`, or in a Space of the hub."""

    type: Literal["trackio"] = "trackio"
    project: Project = "obliviate"
    space: str | None = None  # org/name


class MlflowTracking(Spec):
    """MLflow: pip install 'obliviate[mlflow]'."""

    type: Literal["mlflow"] = "mlflow"
    project: Project = "obliviate"  # the experiment
    uri: str | None = None  # http://host:5000 or sqlite:///path; None: mlflow.db in the folder of all runs


TrackingSpec = Annotated[
    TensorBoardTracking | WandbTracking | TrackioTracking | MlflowTracking, Field(discriminator="type")
]


class Tracked(RunSpec):
    """A config whose runs can be followed elsewhere. It changes no result, and is in no run's address."""

    tracking: TrackingSpec | None = later()
