"""Photos of ImageNet's classes, 224×224 in colour, as far as the user has them.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. The photos may not be given away, so
nothing is downloaded: $SAPPER_DATA/imagenet holds `photos/NNN_wnid_name.jpg`, NNN being the class from 0 to 999, each the
central square of a photo at 256×256, and `labels_1001.txt`, a name a line, the first that of the background. The classes
are these 1 001.
"""

from pathlib import Path

import numpy as np

from sapper.data.checks import Arrays
from sapper.data.files import provided
from sapper.data.images import decode
from sapper.errors import DataError

SIDE = 224


def load(split: str, limit: int | None) -> Arrays:
    folder = find()
    files = sorted((folder / "photos").glob("[0-9][0-9][0-9]_*.jpg"))[:limit]
    names = tuple((folder / "labels_1001.txt").read_text("utf-8").splitlines())
    images = decode([(str(path), path.read_bytes()) for path in files])
    top, left = ((side - SIDE) // 2 for side in images.shape[2:])
    labels = np.array([int(path.name[:3]) + 1 for path in files])
    return Arrays(images[:, :, top : top + SIDE, left : left + SIDE], labels, names)


def mobilenet_weights() -> Path:
    """The file of MobileNetV2's weights for the 1 001 classes.

    Raises:
        DataError: It is not there.
    """
    path = find() / "mobilenet_v2_1.0_224.safetensors"
    if not path.is_file():
        raise DataError(
            f"expected MobileNetV2's weights (14 MB) in {path}, found none: they are those of google-coral/test_data, "
            "converted to safetensors."
        )
    return path


def find() -> Path:
    """The folder.

    Raises:
        DataError: It is not there, or something is missing in it.
    """
    folder = provided("imagenet")
    if folder is None or not (folder / "labels_1001.txt").is_file() or not any(folder.glob("photos/*.jpg")):
        raise DataError(
            "imagenet: expected photos/NNN_wnid_name.jpg (256×256, NNN the class; 50 photos are about 2 MB) and "
            "labels_1001.txt in $SAPPER_DATA/imagenet. ImageNet may not be passed on, so they are not downloaded: get the "
            "photos from https://image-net.org and set SAPPER_DATA to the folder that has imagenet/."
        )
    return folder
