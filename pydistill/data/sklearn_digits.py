"""Read scikit-learn's digits: 1,797 handwritten digits of 8×8 pixels."""

from __future__ import annotations

import numpy as np

from pydistill.data.raw import RawData, raw_from
from pydistill.errors import MissingDependencyError

_TEST_SHARE = 0.2
_SEED = 0


def read_digits() -> RawData:
    """Read the digits as [n, 1, 8, 8] in [0, 1], in a fixed stratified split of 1,437 training and 360 test images."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingDependencyError("the data set digits comes with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=_TEST_SHARE, stratify=digits.target, random_state=_SEED
    )
    return raw_from("digits", None, images[train], digits.target[train], images[test], digits.target[test])
