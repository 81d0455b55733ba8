"""What a run forgets, keeps and measures on: the data specs of a config, and the rows and token ids they become."""

from typing import Annotated

from pydantic import Field

from obliviate.data.continual import ContinualData
from obliviate.data.fictitious import FictitiousData
from obliviate.data.files import FilesData
from obliviate.data.muse import MuseData
from obliviate.data.real_world import RealWorldData
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.text import Encoded, TextEncoder
from obliviate.data.tofu import TofuData
from obliviate.data.wmdp import WmdpData

DataSpec = Annotated[
    TofuData | FictitiousData | FilesData | RealWorldData | ContinualData | MuseData | WmdpData,
    Field(discriminator="type"),
]

__all__ = [
    "ContinualData",
    "Corpus",
    "DataSpec",
    "Encoded",
    "EvaluationSet",
    "FictitiousData",
    "FilesData",
    "MuseData",
    "RealWorldData",
    "Role",
    "Row",
    "TextEncoder",
    "TofuData",
    "WmdpData",
]
