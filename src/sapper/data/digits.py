"""Scikit-learn's digits: 1 797 hand-written digits of 8×8 pixels with 17 levels of grey; nothing to download.

Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
The split is fixed: the first 1 297 train, the last 500 test, in the original order.
"""

import numpy as np

from sapper.data.checks import Arrays

TEST = 500


def load(split: str, limit: int | None) -> Arrays:
    from sklearn.datasets import load_digits  # takes a second: not for those who load another set

    x, y = load_digits(return_X_y=True)
    part = slice(None, -TEST) if split == "train" else slice(-TEST, None)
    images = np.asarray(x, np.float32).reshape(-1, 1, 8, 8)[part] / 16
    return Arrays(images[:limit], np.asarray(y)[part][:limit], tuple("0123456789"))
