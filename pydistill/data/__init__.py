"""Data sets, their preprocessing and its inverse, and differentiable augmentation."""

from pydistill.data.dataset import Dataset, from_tensors
from pydistill.data.dsa import DsaDraw, DsaSettings, augment
from pydistill.data.load import load
from pydistill.data.pictures import Pictures
from pydistill.data.preprocessing import Normalise, Preprocessing
from pydistill.data.settings import DataSettings
from pydistill.data.table import from_table
from pydistill.data.zca import Zca

__all__ = [
    "DataSettings",
    "Dataset",
    "DsaDraw",
    "DsaSettings",
    "Normalise",
    "Pictures",
    "Preprocessing",
    "Zca",
    "augment",
    "from_table",
    "from_tensors",
    "load",
]
