"""What a run forgets, keeps and measures on: the data specs of a config, and the rows and token ids they become."""

from typing import Annotated

from pydantic import Field

from obliviate.data.continual import ContinualData
from obliviate.data.fictitious import FictitiousData
from obliviate.data.files import FilesData
from obliviate.data.knowundo import KnowUndoData
from obliviate.data.muse import MuseData
from obliviate.data.real_world import RealWorldData
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.rwku import RwkuData
from obliviate.data.text import Encoded, TextEncoder
from obliviate.data.tofu import TofuData
from obliviate.data.wmdp import WmdpData
from obliviate.data.wmdp_forms import WmdpClozeData, WmdpRobustData

DataSpec = Annotated[
    TofuData
    | FictitiousData
    | FilesData
    | RealWorldData
    | ContinualData
    | MuseData
    | WmdpData
    | WmdpRobustData
    | WmdpClozeData
    | RwkuData
    | KnowUndoData,
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
    "KnowUndoData",
    "MuseData",
    "RealWorldData",
    "Role",
    "Row",
    "RwkuData",
    "TextEncoder",
    "TofuData",
    "WmdpClozeData",
    "WmdpData",
    "WmdpRobustData",
]
