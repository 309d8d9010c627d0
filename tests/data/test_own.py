import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sapper.data.loading import load_data
from sapper.errors import DataError


def png(level: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> bytes:
    """`size` is width and height, as Pillow has it."""
    buffer = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class TestNpz:
    @pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("x_test", "y_test")])
    def test_pairs_of_names(self, tmp_path, keys):
        np.savez(tmp_path / "a.npz", **{keys[0]: np.full((2, 4, 4), 255, np.uint8), keys[1]: np.array([0, 3])})
        data = load_data(str(tmp_path / "a.npz"))
        assert data.x.shape == (2, 1, 4, 4)
        assert data.x.max() == 1
        assert data.y.tolist() == [0, 3]
        assert (data.name, data.classes) == ("a", ("0", "1", "2", "3"))

    def test_the_split_is_chosen(self, tmp_path):
        np.savez(tmp_path / "a.npz", x_train=np.zeros((3, 2)), y_train=[0, 1, 2], x_test=np.ones((1, 2)), y_test=[1])
        assert len(load_data(str(tmp_path / "a.npz"), split="train")) == 3
        assert len(load_data(str(tmp_path / "a.npz"))) == 1

    def test_classes_and_limit(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=[0, 1, 2], classes=np.array(["cat", "dog", "emu"]))
        data = load_data(str(tmp_path / "a.npz"), limit=1)
        assert (len(data), data.classes) == (1, ("cat", "dog", "emu"))

    def test_a_limit_does_not_hide_a_mismatch(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=[0, 1])
        with pytest.raises(DataError, match="3 samples and 2 labels"):
            load_data(str(tmp_path / "a.npz"), limit=1)

    def test_other_names_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", data=np.zeros((3, 2)))
        with pytest.raises(DataError, match="got data"):
            load_data(str(tmp_path / "a.npz"))

    def test_pickled_objects_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.array([{}, []], object), y=[0, 1])
        with pytest.raises(DataError, match="refused"):
            load_data(str(tmp_path / "a.npz"))

    def test_garbage_is_refused(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"garbage")
        np.save(tmp_path / "b.npy", np.zeros(3))
        (tmp_path / "b.npy").rename(tmp_path / "b.npz")
        for name in ("a.npz", "b.npz"):
            with pytest.raises(DataError, match="cannot be read as one"):
                load_data(str(tmp_path / name))


class TestFolder:
    def test_classes_take_turns(self, tmp_path):
        images(tmp_path, {"dog/1.png": png(10), "cat/1.png": png(20), "cat/2.png": png(30), "notes.txt": b"no image"})
        data = load_data(str(tmp_path))
        assert data.classes == ("cat", "dog")
        assert data.y.tolist() == [0, 1, 0]
        assert data.x.shape == (3, 1, 3, 4)
        assert (data.x[:, 0, 0, 0] * 255).round().tolist() == [20, 10, 30]
        assert load_data(str(tmp_path), limit=2).y.tolist() == [0, 1]

    def test_the_split_is_a_subfolder_where_there_is_one(self, tmp_path):
        images(tmp_path, {"train/a/1.png": png(1), "train/b/1.png": png(1), "test/a/1.png": png(1)})
        assert len(load_data(str(tmp_path))) == 1
        assert len(load_data(str(tmp_path), split="train")) == 2

    def test_grey_among_colour_becomes_colour(self, tmp_path):
        images(tmp_path, {"a/1.png": png(255), "a/2.png": png(255, mode="RGB")})
        x = load_data(str(tmp_path)).x
        assert x[:, :, 0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]

    def test_sizes_must_agree_or_be_given(self, tmp_path):
        images(tmp_path, {"a/1.png": png(1), "a/2.png": png(1, (9, 8))})
        with pytest.raises(DataError, match="2 sizes from 4×3 to 9×8"):
            load_data(str(tmp_path))
        assert load_data(str(tmp_path), resize=(5, 6)).x.shape == (2, 1, 5, 6)

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"a/1.png": b"garbage"}, "1.png: expected an image"),
            ({"a/1.png": png(1)[:-30]}, "1.png: expected an image"),
            ({"a/1.txt": b""}, "got none"),
            ({"1.png": png(1)}, "no subfolder"),
        ],
    )
    def test_bad_folders_are_refused(self, tmp_path, files, said):
        with pytest.raises(DataError, match=said):
            load_data(str(images(tmp_path, files)))

    def test_sixteen_bits_are_refused(self, tmp_path):
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((3, 4), np.uint16)).save(buffer, "PNG")
        with pytest.raises(DataError, match="8 bits a channel"):
            load_data(str(images(tmp_path, {"a/1.png": buffer.getvalue()})))


def parquet(path: Path, levels: list[int], labels: list[int | None], names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(level), "path": None} for level in levels]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    schema = {"image": pl.Struct({"bytes": pl.Binary, "path": pl.String}), "label": pl.Int64}
    pl.DataFrame({"image": rows, "label": labels}, schema=schema).write_parquet(path, metadata=metadata)
    return path


class TestParquet:
    def test_a_file(self, tmp_path):
        data = load_data(str(parquet(tmp_path / "a.parquet", [51, 0], [1, 0], ["cat", "dog"])))
        assert data.x.shape == (2, 1, 3, 4)
        assert data.x[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0])
        assert (data.y.tolist(), data.classes) == ([1, 0], ("cat", "dog"))

    def test_a_folder_with_splits_in_names(self, tmp_path):
        parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [1], [0])
        parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [2], [1])
        parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [3], [2])
        train, test = load_data(str(tmp_path), split="train"), load_data(str(tmp_path))
        assert (train.y.tolist(), test.y.tolist()) == ([0, 1], [2])

    def test_a_folder_without_the_split_is_refused(self, tmp_path):
        parquet(tmp_path / "train-0.parquet", [1], [0])
        with pytest.raises(DataError, match="'test' in its name"):
            load_data(str(tmp_path))

    def test_an_undivided_folder_is_taken_whole(self, tmp_path):
        parquet(tmp_path / "0000.parquet", [1], [0])
        assert len(load_data(str(tmp_path), split="train")) == 1

    def test_missing_labels_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="1 rows without"):
            load_data(str(parquet(tmp_path / "a.parquet", [1, 2], [0, None])))

    def test_tables_without_images_or_labels_are_refused(self, tmp_path):
        path = tmp_path / "a.parquet"
        pl.DataFrame({"label": [1], "text": ["x"]}).write_parquet(path)
        with pytest.raises(DataError, match=r"column of encoded images.*label"):
            load_data(str(path))
        pl.DataFrame({"image": [png(1)], "text": ["x"]}).write_parquet(path)
        with pytest.raises(DataError, match="column 'label'"):
            load_data(str(path))

    def test_garbage_is_refused(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"garbage")
        with pytest.raises(DataError, match="expected a Parquet file"):
            load_data(str(tmp_path / "a.parquet"))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_data(str(tmp_path / "absent.npz"))
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"'\.csv'"):
        load_data(str(tmp_path / "a.csv"))
