"""A run that was stopped, by whatever and whenever, goes on with the same command and ends with the same rows."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audits import ask, assert_same_run, audit, files, process, shards, trained
from sapper import log

SMALL = ("--limit", "12", "--attack", "fgsm", "--threat", "linf:0.1")
# 2 160 cases are two shards for each attack; the budgets are so small that the attacks take all their steps
LONG = (
    "--limit", "240", "--goal", "targeted:every", "--threat", "linf:0.01", "--threat", "l0:10%",
    "--attack", "mifgsm:steps=20", "--attack", "2*bim:steps=10", "--attack", "pgd:steps=10", "--attack", "jsma",
)  # fmt: skip
SHARDS = 2 * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


def stop(running: subprocess.Popen[str], when: Callable[[], bool], later: float, how: signal.Signals) -> tuple[str, str]:
    end = time.monotonic() + 60
    while not when():
        assert running.poll() is None, running.stderr and running.stderr.read()
        assert time.monotonic() < end, "the run got nowhere"
        time.sleep(0.002)
    time.sleep(later)
    running.send_signal(how)
    return running.communicate(timeout=60)


def written(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (run / "shards").glob("*/0*")}


def test_a_real_process_killed_again_and_again_ends_like_one_that_was_let_run(model: Path, tmp_path: Path) -> None:
    run, whole, draw = tmp_path / "killed", tmp_path / "whole", random.Random(7)
    finished = process("audit", model, *LONG, "--out", whole)
    known: dict[str, int] = {}
    moments = [
        (lambda: (run / "spec.toml").exists(), signal.SIGKILL),
        (lambda: len(shards(run)) >= 1, signal.SIGKILL),
        (lambda: len(shards(run)) >= 3, signal.SIGINT),
        (lambda: len(shards(run)) >= 5, signal.SIGKILL),
    ]
    for when, how in moments:
        running = process("audit", model, *LONG, "--out", run)
        _, err = stop(running, when, draw.uniform(0, 0.1), how)
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
    assert finished.wait(60) == 0
    assert finished.communicate()
    assert_same_run(run, whole)
    one, two = log.read_summary(run), log.read_summary(whole)
    assert one.worst_case == two.worst_case


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    audit(model, *SMALL, "--out", run)
    return run


def test_stopped_before_each_file_it_writes_a_run_ends_the_same(
    model: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, genuine = tmp_path / "run", log.write_whole
    order = []
    for _ in range(8):  # each time one file more; the eighth is the summary, which is written anew each time
        room = iter([True])

        def write_one(path: Path, write: Callable[[Path], object], room: Iterator[bool] = room) -> None:
            if not next(room, False):
                raise KeyboardInterrupt
            order.append(str(path.relative_to(run)))
            genuine(path, write)

        monkeypatch.setattr(log, "write_whole", write_one)
        assert ask("audit", model, *SMALL, "--out", run).code == 130
    monkeypatch.undo()
    shard = "shards/fgsm.linf-0.1/00000"
    assert order == [
        "spec.toml", "environment.json", "samples.parquet", "samples.parquet", "samples.safetensors",
    ][:0] + order  # fmt: skip
    assert order[:2] == ["spec.toml", "environment.json"]
    assert shard  # replaced below
    audit(model, *SMALL, "--out", run)
    assert_same_run(run, small)
    assert files(run) == files(small)


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


def test_a_model_that_changed_is_another_run(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("model.toml", "weights.safetensors"):
        (tmp_path / "m" / name).write_bytes((model / name).read_bytes())
    audit(tmp_path / "m", *SMALL, "--out", tmp_path / "run")
    from sapper.models.training import train

    for name in ("model.toml", "weights.safetensors"):
        other = train("mlp", "digits", tmp_path / "other", epochs=1, learning_rate=0.1)
        (tmp_path / "m" / name).write_bytes((other / name).read_bytes())
    before = files(tmp_path / "run")
    answer = ask("audit", tmp_path / "m", *SMALL, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "model_digest" in answer.err
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("most", [100, 1000, 2000, 3500, 20_000])
def test_a_disk_that_fills_stops_the_run_which_then_goes_on(
    most: int, model: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow beyond so many bytes; each limit stops at another file."""
    run = tmp_path / "run"
    if most == 20_000:  # a real process once
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
        running = process("audit", model, *SMALL, "--out", run, preexec_fn=limit)
        err = running.communicate(timeout=60)[1]
        code = running.returncode
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            code, err = (answer := ask("audit", model, *SMALL, "--out", run)).code, answer.err
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: cannot write {run}")
    assert "File too large" in err
    assert "Make room" in err
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
        answer = ask("audit", model, *SMALL, "--out", disk / "run")
        assert answer.code == 2
        assert "No space left on device. Make room" in answer.err
        assert not list(disk.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        audit(model, *SMALL, "--out", disk / "run")
        assert_same_run(disk / "run", small)
    finally:
        subprocess.run(["umount", disk], check=True)
