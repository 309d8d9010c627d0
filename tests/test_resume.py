"""A run that was stopped, by whatever and whenever, goes on with the same command and ends with the same rows."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audits import ask, assert_same_run, audit, files, process, shards, trained
from sapper import disk, log
from sapper.models.training import train

SMALL = ("--limit", "12", "--attack", "fgsm", "--threat", "linf:0.1")
# 2 160 cases are two shards for each attack; the budgets are so small that most take all their steps
LONG = (
    "--limit", "240", "--goal", "targeted:every", "--threat", "linf:0.01", "--threat", "l0:3",
    "--attack", "pgd:steps=10", "--attack", "2*bim:steps=4", "--attack", "jsma", "--no-doctor",
)  # fmt: skip
SHARDS = 2 * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


def stop(
    running: subprocess.Popen[str], when: Callable[[], bool], later: float, how: signal.Signals
) -> tuple[str, str]:
    end = time.monotonic() + 60
    while not when():
        assert running.poll() is None, running.stderr and running.stderr.read()
        assert time.monotonic() < end, "the run got nowhere"
        time.sleep(0.002)
    time.sleep(later)
    running.send_signal(how)
    return running.communicate(timeout=300)


def written(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (run / "shards").glob("*/0*")}


def test_a_real_process_killed_again_and_again_ends_like_one_that_was_let_run(model: Path, tmp_path: Path) -> None:
    run, whole, draw = tmp_path / "killed", tmp_path / "whole", random.Random(7)
    audit(model, *LONG, "--out", whole)
    known: dict[str, int] = {}
    for count, how in ((1, signal.SIGKILL), (4, signal.SIGINT), (6, signal.SIGKILL)):
        running = process("audit", model, *LONG, "--out", run)
        _, err = stop(running, lambda count=count: len(shards(run)) >= count, draw.uniform(0, 0.1), how)
        if how == signal.SIGINT:
            assert running.returncode == 130
            assert err.splitlines()[-1] == "stopped; the same command goes on where it was."
            assert "Traceback" not in err
            assert not list(run.rglob("*.part"))
        else:
            assert running.returncode == -signal.SIGKILL
        assert not (run / "summary.json").exists()
        now = written(run)
        assert known.items() <= now.items()  # what is there is done, and is not written again
        known = {path: at for path, at in now.items() if Path(path).with_suffix(".parquet").exists()}
    audit(model, *LONG, "--out", run)
    assert known.items() <= written(run).items()
    assert len(shards(run)) == SHARDS
    assert_same_run(run, whole)
    one, two = log.read_summary(run), log.read_summary(whole)
    assert one.worst_case == two.worst_case


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    audit(model, *SMALL, "--out", run)
    return run


def test_stopped_before_any_of_the_files_it_writes_a_run_ends_the_same(
    model: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = disk.write_whole
    assert len(files(small)) == 10
    for stop_at in (1, 3, 5, 6, 7, 8):  # 6: the tensors of a shard are there, its table is not
        run, left = tmp_path / str(stop_at), iter(range(stop_at))

        def write_some(path: Path, write: Callable[[Path], object], left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            genuine(path, write)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "write_whole", write_some)
            answer = ask("audit", model, *SMALL, "--out", run)
        assert (answer.code, answer.err.splitlines()[-1]) == (130, "stopped; the same command goes on where it was.")
        assert len(files(run)) == stop_at
        audit(model, *SMALL, "--out", run)
        assert files(run) == files(small)
        assert_same_run(run, small)


def test_tensors_without_their_table_are_computed_again(model: Path, small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    audit(model, *SMALL, "--out", run)
    (table,) = shards(run)
    table.unlink()
    table.with_suffix(".safetensors").write_bytes(b"of some other run")
    table.with_name(f".{table.name}.1.part").write_bytes(b"half a table")
    audit(model, *SMALL, "--out", run)
    assert_same_run(run, small)


def test_a_finished_run_is_not_run_again(model: Path, small: Path) -> None:
    before = written(small)
    audit(model, *SMALL, "--out", small)
    assert written(small) == before


def test_a_model_that_changed_under_its_name_is_another_run(model: Path, tmp_path: Path) -> None:
    other, here = train("mlp", "digits", tmp_path / "other", epochs=1, learning_rate=0.1), tmp_path / "here"
    shutil.copytree(model, here)
    audit(here, *SMALL, "--out", tmp_path / "run")
    shutil.copytree(other, here, dirs_exist_ok=True)
    before = files(tmp_path / "run")
    answer = ask("audit", here, *SMALL, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "holds a run of another spec" in answer.err
    assert "model_digest: " in answer.err
    assert files(tmp_path / "run") == before


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (100, "spec.toml"),
        (1000, "environment.json"),
        (3000, "samples.safetensors"),
        (4000, "shards/fgsm.linf-0.1/00000.parquet"),
        (20_000, "report.html"),
    ],
)
def test_a_file_that_finds_no_room_is_named_and_the_run_goes_on(
    size: int, name: str, model: Path, small: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with no_file_beyond(size):
        answer = ask("audit", model, *SMALL, "--out", run)
    assert answer.code == 2
    last = answer.err.splitlines()[-1]
    assert last.startswith(f"error: cannot write {run / name}: File too large. Make room")
    assert name not in files(run)
    assert not list(run.rglob("*.part"))
    audit(model, *SMALL, "--out", run)
    assert_same_run(run, small)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_says_so_and_with_room_the_run_goes_on(model: Path, small: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "ballast").write_bytes(bytes(32 << 10))
        running = process("audit", model, *SMALL, "--out", disk / "run")
        err = running.communicate(timeout=300)[1]
        assert running.returncode == 2
        assert "No space left on device. Make room" in err.splitlines()[-1]
        assert "Traceback" not in err
        assert not list(disk.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        audit(model, *SMALL, "--out", disk / "run")
        assert_same_run(disk / "run", small)
    finally:
        subprocess.run(["umount", disk], check=True)
