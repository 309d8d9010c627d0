import errno
import io
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from sapper.errors import RunError, UsageError
from sapper.models import training
from sapper.models.loading import load_model
from sapper.models.training import train


def short(out: Path, **options) -> Path:
    return train("softmax", "digits", out, **({"epochs": 3} | options))


def table(out: Path) -> dict:
    return tomllib.loads((out / "model.toml").read_text())


def test_a_model_folder_comes_out(tmp_path):
    out = short(tmp_path / "new" / "folder")
    assert sorted(path.name for path in out.iterdir()) == ["model.toml", "weights.safetensors"]
    written = table(out)
    assert written["architecture"] == "softmax"
    assert written["input_shape"] == [1, 8, 8]
    assert written["classes"] == list("0123456789")
    assert written["torch"] == torch.__version__
    assert written["recipe"] == {
        "architecture": "softmax",
        "split": "train",
        "data": "digits",
        "epochs": 3,
        "batch_size": 100,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "seed": 0,
        "schedule": "linear",
    }
    assert 0.7 < written["test_accuracy"] < 1
    assert load_model(str(out)).digest == written["digest"]


def test_a_small_set_is_gone_through_often(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LEAST_STEPS", 21)
    assert table(train("softmax", "digits", tmp_path / "a", batch_size=1000))["recipe"]["epochs"] == 11
    assert table(train("softmax", "digits", tmp_path / "b", batch_size=100))["recipe"]["epochs"] == 10


def test_the_seed_decides_and_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_file(short(tmp_path / "a") / "weights.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = load_file(short(tmp_path / "b") / "weights.safetensors")
    other = load_file(short(tmp_path / "c", seed=1) / "weights.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_the_learning_rate_falls_to_nought_or_stays(tmp_path):
    one = load_file(short(tmp_path / "one", epochs=1, schedule="constant") / "weights.safetensors")
    two = load_file(short(tmp_path / "two", epochs=2, schedule="constant", learning_rate=0.05) / "weights.safetensors")
    falling = load_file(short(tmp_path / "falling", epochs=2) / "weights.safetensors")
    steps = [sum(float((a[k] - b[k]).square().sum()) for k in a) for a, b in ((two, one), (falling, one))]
    assert steps[0] > 2 * steps[1]  # the last half of a falling rate is a quarter of the way


def test_a_folder_from_before_there_were_schedules_is_known(tmp_path):
    out = short(tmp_path)
    text = (out / "model.toml").read_text()
    (out / "model.toml").write_text(text.replace('schedule = "linear"\n', ""))
    assert short(out) == out
    with pytest.raises(RunError, match="schedule is linear there and constant here"):
        short(out, schedule="constant")


def test_a_finished_folder_is_returned_as_it_is(tmp_path):
    out = short(tmp_path / "a")
    (out / "checkpoint.safetensors").write_bytes(b"left behind")
    times = (out / "weights.safetensors").stat().st_mtime_ns
    short(out)
    assert (out / "weights.safetensors").stat().st_mtime_ns == times
    assert not (out / "checkpoint.safetensors").exists()


def test_a_folder_of_another_recipe_is_left_alone(tmp_path):
    out = short(tmp_path / "a")
    with pytest.raises(RunError, match=r"epochs is 3 there and 4 here; seed is 0 there and 1 here.*--out"):
        short(out, epochs=4, seed=1)
    assert table(out)["recipe"]["seed"] == 0


CHILD = """
import sys
from pathlib import Path
from sapper.models.training import train
for folder in sys.argv[1:]:
    train("lenet", "digits", Path(folder), epochs=8)
"""


def epochs_done(out: Path) -> int:
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["epochs"])


def test_killed_and_restarted_it_ends_with_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(killed)]) as child:
        while epochs_done(killed) < 2:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (killed / "model.toml").exists()
    assert 2 <= epochs_done(killed) < 8
    subprocess.run([sys.executable, "-c", CHILD, str(killed), str(whole)], check=True)
    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert (killed / "model.toml").read_bytes() == (whole / "model.toml").read_bytes()
    assert not (killed / "checkpoint.safetensors").exists()


def interrupted(out: Path) -> Path:
    """A folder whose training stopped after the second epoch of three."""
    out.mkdir()
    save = training._save

    def stop(module, optimiser, plan, epochs, folder) -> None:
        save(module, optimiser, plan, epochs, folder)
        if epochs == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            short(out)
    return out


def test_a_checkpoint_of_another_plan_is_not_continued(tmp_path):
    out = interrupted(tmp_path / "a")
    with pytest.raises(RunError, match=r"learning_rate is 0\.05 there and 0\.1 here"):
        short(out, learning_rate=0.1)
    assert epochs_done(out) == 2


def test_a_damaged_checkpoint_is_said(tmp_path):
    out = interrupted(tmp_path / "a")
    (out / "checkpoint.safetensors").write_bytes(b"garbage")
    with pytest.raises(RunError, match="delete it"):
        short(out)


def test_progress_is_shown(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    short(tmp_path / "a", console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("epoch 3/3", "loss", "accuracy", "samples/s"):
        assert part in shown


def test_divergence_is_said(tmp_path):
    with pytest.raises(RunError, match="diverged in epoch"):
        train("mlp", "digits", tmp_path / "a", epochs=3, learning_rate=1e6)
    assert not (tmp_path / "a" / "model.toml").exists()


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}, {"seed": -1}]
)
def test_impossible_plans_are_refused(tmp_path, options):
    with pytest.raises(UsageError, match="expected"):
        train("softmax", "digits", tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean lenet"):
        train("lenett", "digits", tmp_path / "a")
    with pytest.raises(UsageError, match="did you mean digits"):
        train("lenet", "digit", tmp_path / "a")


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="got the file"):
        short(tmp_path / "file")
    with pytest.raises(RunError, match="cannot write"):
        short(tmp_path / "file" / "a")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*Make room"):
        short(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
