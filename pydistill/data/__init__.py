"""Data sets, their preprocessing and its inverse, and differentiable augmentation."""

from pydistill.data.constructors import (
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    from_arrays,
    from_dataset,
    from_folder,
    from_npz,
    imagefruit,
    imagemeow,
    imagenette,
    imagesquawk,
    imagewoof,
    imageyellow,
    svhn,
    tiny_imagenet,
)
from pydistill.data.dataset import Dataset
from pydistill.data.dsa import DsaDraw, DsaSettings, augment
from pydistill.data.load import load
from pydistill.data.pictures import Pictures
from pydistill.data.preprocessing import Normalise, Preprocessing
from pydistill.data.settings import DataSettings
from pydistill.data.table import from_csv, from_table
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
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "from_csv",
    "from_dataset",
    "from_folder",
    "from_npz",
    "from_table",
    "imagefruit",
    "imagemeow",
    "imagenette",
    "imagesquawk",
    "imagewoof",
    "imageyellow",
    "load",
    "svhn",
    "tiny_imagenet",
]
