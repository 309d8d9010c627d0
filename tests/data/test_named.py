import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sapper.data import cifar10
from sapper.data.loading import load_data, named_sets
from sapper.data.mnist import read_idx
from sapper.errors import DataError, UsageError

provided = pytest.mark.skipif("SAPPER_DATA" not in os.environ, reason="SAPPER_DATA is not set")


def test_the_folder_names_the_sets():
    assert named_sets() == ("cifar10", "digits", "imagenet", "mnist")


def test_digits():
    train, test = load_data("digits", split="train"), load_data("digits")
    assert (train.x.shape, test.x.shape) == ((1297, 1, 8, 8), (500, 1, 8, 8))
    assert test.classes == tuple("0123456789")
    assert (test.x.min(), test.x.max()) == (0, 1)
    assert torch.equal((test.x * 16).round() / 16, test.x)
    assert test.y.bincount(minlength=10).min() > 40


def test_the_limit_keeps_the_first():
    assert torch.equal(load_data("digits", limit=7).x, load_data("digits").x[:7])


@provided
@pytest.mark.parametrize(
    ("split", "size", "md5"),
    [("train", 60_000, "6bbc9ace898e44ae57da46a324031adb"), ("test", 10_000, "2646ac647ad5339dbf082846283269ea")],
)
def test_mnist_is_the_original(split, size, md5):
    data = load_data("mnist", split=split)
    header = np.array([0x803, size, 28, 28], ">u4").tobytes()
    pixels = (data.x * 255).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.md5(header + pixels).hexdigest() == md5
    assert data.y[:5].tolist() == ([5, 0, 4, 1, 9] if split == "train" else [7, 2, 1, 0, 4])


@provided
def test_cifar10_from_parquet():
    data = load_data("cifar10", limit=300)
    assert data.x.shape == (300, 3, 32, 32)
    assert [data.classes[label] for label in data.y[:5]] == ["cat", "ship", "ship", "airplane", "frog"]
    assert 0.45 < data.x.mean() < 0.5


@provided
def test_cifar10_drops_lossy_images_on_demand():
    assert len(cifar10.load("test", None, lossless=True).y) == 9979


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_cifar10_from_the_binary_archive(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    records = [bytes([i % 10]) + image.tobytes() for i, image in enumerate(images)]
    # the archive's order of members is not the order of samples
    members = {f"data_batch_{i}.bin": b"".join(records[2 * i - 2 : 2 * i]) for i in (3, 1, 5, 4, 2)}
    path = archive(tmp_path / "c.tar.gz", members | {"test_batch.bin": b"".join(records[10:]), "readme.html": b"x"})
    train, test = cifar10.read_binary(path, "train", None), cifar10.read_binary(path, "test", 1)
    assert np.array_equal(train.x, images[:10])
    assert train.y.tolist() == list(range(10))
    assert np.array_equal(test.x, images[10:11])


@pytest.mark.parametrize("members", [{"other.bin": b"x"}, {"test_batch.bin": b"short"}])
def test_a_wrong_cifar10_archive_is_refused(tmp_path, members):
    with pytest.raises(DataError, match="binary archive"):
        cifar10.read_binary(archive(tmp_path / "c.tar.gz", members), "test", None)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "c.tar.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="binary archive"):
        cifar10.read_binary(path, "test", None)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"plain", id="not packed"),
        pytest.param(gzip.compress(b"\0\0\x09\x01\0\0\0\x01\0"), id="signed bytes"),
        pytest.param(gzip.compress(b"\0\0\x08\x01\0\0\0\x05\0"), id="too few values"),
        pytest.param(gzip.compress(b"\0\0"), id="half a head"),
        pytest.param(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\0")[:-9], id="cut short"),
    ],
)
def test_a_wrong_idx_file_is_refused(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="IDX"):
        read_idx(path)


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean mnist"):
        load_data("minst")
    with pytest.raises(UsageError, match="unknown split 'tests': did you mean test"):
        load_data("digits", split="tests")
    with pytest.raises(UsageError, match="at least 1 sample, got 0"):
        load_data("digits", limit=0)


def test_photos_of_imagenet_are_cut_to_their_centre(tmp_path, monkeypatch):
    photos = tmp_path / "imagenet" / "photos"
    photos.mkdir(parents=True)
    (tmp_path / "imagenet" / "labels_1001.txt").write_text("\n".join(["background", *map(str, range(1000))]))
    for number, grey in ((145, 100), (7, 200)):
        image = np.full((256, 256, 3), grey, np.uint8)
        image[16:240, 16:240] = 50
        Image.fromarray(image).save(photos / f"{number:03}_n0_thing.jpg", quality=100)
    monkeypatch.setenv("SAPPER_DATA", str(tmp_path))
    data = load_data("imagenet")
    assert data.x.shape == (2, 3, 224, 224)
    assert (data.x - 50 / 255).abs().max() < 0.15  # JPEG rounds at the edge
    assert [data.classes[k] for k in data.y] == ["7", "145"]
    assert len(load_data("imagenet", limit=1)) == 1


def test_imagenet_that_is_not_there_says_what_and_where(tmp_path, monkeypatch):
    for root in ("", str(tmp_path)):
        monkeypatch.setenv("SAPPER_DATA", root)
        with pytest.raises(DataError, match=r"labels_1001.txt in \$SAPPER_DATA/imagenet"):
            load_data("imagenet")
