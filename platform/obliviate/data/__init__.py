"""What a run forgets, keeps and measures on: the data specs of a config, and the rows and token ids they become."""

from typing import Annotated

from pydantic import Field

from obliviate.data.blur import BlurData
from obliviate.data.continual import ContinualData
from obliviate.data.fictitious import FictitiousData
from obliviate.data.files import FilesData
from obliviate.data.knowundo import KnowUndoData
from obliviate.data.lume import LumeData
from obliviate.data.muse import MuseData
from obliviate.data.pistol import PistolData
from obliviate.data.real_world import RealWorldData
from obliviate.data.relu import ReluData
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.rwku import RwkuData
from obliviate.data.text import Encoded, TextEncoder
from obliviate.data.tofu import TofuData
from obliviate.data.tofu_formats import TofuFormatsData
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
    | KnowUndoData
    | LumeData
    | ReluData
    | TofuFormatsData
    | BlurData
    | PistolData,
    Field(discriminator="type"),
]

__all__ = [
    "BlurData",
    "ContinualData",
    "Corpus",
    "DataSpec",
    "Encoded",
    "EvaluationSet",
    "FictitiousData",
    "FilesData",
    "KnowUndoData",
    "LumeData",
    "MuseData",
    "PistolData",
    "RealWorldData",
    "ReluData",
    "Role",
    "Row",
    "RwkuData",
    "TextEncoder",
    "TofuData",
    "TofuFormatsData",
    "WmdpClozeData",
    "WmdpData",
    "WmdpRobustData",
]
