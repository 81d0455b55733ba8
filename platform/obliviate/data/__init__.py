"""What a run forgets, keeps and measures on: the data specs of a config, and the rows and token ids they become."""

from typing import Annotated, get_args

from pydantic import Field

from obliviate.data.base import Data
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
from obliviate.plugins import Door

AnyData = (
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
    | PistolData
)
DATA_TYPES: dict[str, type[Data]] = {cls.model_fields["type"].default: cls for cls in get_args(AnyData)}
DATA_DOOR = Door("obliviate.data", (Data,), DATA_TYPES, set(DATA_TYPES))
DataSpec = Annotated[AnyData, Field(discriminator="type"), DATA_DOOR]

__all__ = [
    "DATA_DOOR",
    "DATA_TYPES",
    "BlurData",
    "ContinualData",
    "Corpus",
    "Data",
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
