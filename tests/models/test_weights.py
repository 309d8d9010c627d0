import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sapper.errors import ModelError
from sapper.models.weights import fill, is_pickle, read_safetensors, read_weights


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_safetensors_and_plain_state_dicts_are_read(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    save_file(state, tmp_path / "a.safetensors", {"k": "v"})
    torch.save(state, tmp_path / "a.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pt")
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    assert read_safetensors(tmp_path / "a.safetensors")[1] == {"k": "v"}
    for name in ("a.safetensors", "a.pt", "b.pt", "c.pt"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], state["weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_run(tmp_path, zipped):
    path, made = tmp_path / "bomb.pt", tmp_path / "made"
    if zipped:
        torch.save({"a": Bomb(made)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(made)))
    assert is_pickle(path)
    with pytest.raises(ModelError, match=r"is a pickle.*safetensors"):
        read_weights(path)
    assert not made.exists()


def test_other_things_are_refused(tmp_path):
    (tmp_path / "garbage").write_bytes(b"garbage" * 9)
    (tmp_path / "empty").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    torch.save(torch.ones(3), tmp_path / "c.pt")
    for name, said in (
        ("garbage", "safetensors"),
        ("empty", "safetensors"),
        ("b.pt", "state dict"),
        ("c.pt", "state dict"),
    ):
        with pytest.raises(ModelError, match=said):
            read_weights(tmp_path / name)
    with pytest.raises(ModelError, match="no such file"):
        read_weights(tmp_path / "absent")


def test_weights_must_fit():
    net = nn.Linear(3, 2).train()
    with pytest.raises(
        ModelError, match=r"x: .*missing: bias; not expected: other; weight is \(1,\) instead of \(2, 3\)"
    ):
        fill(net, {"weight": torch.ones(1), "other": torch.ones(1)}, "x")
    fill(net, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, "x")
    assert not net.training
