"""An audit through HTTP: nothing is paid for twice, whatever happens, and never more than the budget."""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from audits import ask, assert_same_run, audit, process, rows
from endpoint_runs import AGAIN, OPTIONS, finding, queries
from sapper import log
from sapper.data.loading import load_data
from servers import Handler, classifier, serving


def test_every_row_is_asked_once_and_the_books_are_the_servers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with serving() as served:
        url = f"{served.url}/v2/models/digits"
        answer = audit(url, *OPTIONS, "--out", run)
        assert Counter(served.rows.values()) == {1: len(served.rows) - AGAIN, 2: AGAIN}
        used = queries(run)
        assert (used["sent"], used["answered"], used["requests"]) == (served.total, served.total, served.requests)
        assert (used["retried"], used["budget"], used["is_spent"], used["access"]) == (0, None, False, "scores")
        assert f"square:steps=12 linf:0.12: {int(rows(run)['found'].sum())} of 24 found, " in answer.err
        table = pl.read_parquet(run / "queries.parquet")
        assert len(table) == served.total
        assert table["answer"].null_count() == 0
        assert table["input"].n_unique() == len(served.rows)
        assert finding(run, "queries").evidence.startswith(f"{served.total} rows sent, in {served.requests} requests")
        assert finding(run, "randomised output").verdict == finding(run, "rows are independent").verdict == "ok"
        before = served.total
        audit(url, *OPTIONS, "--out", run)
        assert served.total == before
        audit(url, *OPTIONS[:-4], "--threat", "linf:0.05", "--out", tmp_path / "other")
        again = Counter(served.rows.values())
        assert (again[3], max(again)) == (AGAIN, 3)  # the clean samples are known, but each run looks past the ledger


def test_the_figures_are_those_of_the_model_at_home(tmp_path: Path) -> None:
    import skops.io

    skops.io.dump(classifier(), tmp_path / "digits.skops")
    audit(tmp_path / "digits.skops", *OPTIONS, "--no-doctor", "--out", tmp_path / "home")
    with serving() as served:
        audit(f"{served.url}/invocations", *OPTIONS, "--no-doctor", "--out", tmp_path / "away")
    home, away = rows(tmp_path / "home"), rows(tmp_path / "away")
    for column in ("found", "prediction", "distance", "forwards"):
        assert home[column].to_list() == away[column].to_list()


def test_killed_in_the_middle_it_asks_for_nothing_twice_but_what_was_on_its_way(tmp_path: Path) -> None:
    held: list[Handler] = []
    let_go = threading.Event()

    def hold(handler: Handler) -> bool:
        held.append(handler)
        return let_go.wait(30)

    with serving() as served:
        url = f"{served.url}/invocations"
        served.rude = dict.fromkeys(range(9, 1000), hold)
        running = process("audit", url, *OPTIONS, "--out", tmp_path / "run", env=os.environ)
        end = time.monotonic() + 60
        while not held:
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.3)  # for the others to come, and for answers that are there to be written
        running.send_signal(signal.SIGKILL)
        running.communicate()
        let_go.set()
        lost = {row.tobytes() for handler in held for row in handler.rows}
        before = dict(served.rows)
        served.rude = {}
        audit(url, *OPTIONS, "--out", tmp_path / "run")
        twice = {row for row, count in served.rows.items() if count > 1}
        clean = {row.tobytes() for row in load_data("digits", limit=AGAIN).x.double().flatten(1).numpy()}
        assert twice <= lost | clean
        assert lost <= twice
        assert len(before) > 24
        assert queries(tmp_path / "run")["sent"] == len(served.rows) + AGAIN  # each counted once, retried or not
        whole = tmp_path / "whole"
        audit(url, *OPTIONS, "--out", whole)
        assert_same_run(tmp_path / "run", whole)


def test_an_endpoint_that_dies_stops_the_audit_and_nothing_is_lost(tmp_path: Path) -> None:
    path, run = tmp_path / "service.toml", tmp_path / "run"
    with serving() as served:
        path.write_text(f'url = "{served.url}/invocations"\nbackoff = 0.01\ntries = 2')
        served.rude = dict.fromkeys(range(9, 1000), lambda handler: handler.reply(503, b"down"))
        answer = ask("audit", path, *OPTIONS, "--out", run)
        assert answer.code == 2
        last = " ".join(answer.err.split()).partition("error: ")[2]
        assert "answered with status 503 ('down'), 2 times; what was answered is kept: the same command goes on" in last
        assert "Traceback" not in answer.err
        served.rude = {}
        audit(path, *OPTIONS, "--out", run)
        assert queries(run)["sent"] == len(served.rows) + AGAIN
        assert queries(run)["answered"] == queries(run)["sent"]


def test_a_randomised_endpoint_is_found_out_past_the_ledger(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> list:
        return (classifier().decision_function(x) + draws.normal(0, 1, (len(x), 10))).tolist()

    with serving(answer=noisy) as served:
        audit(f"{served.url}/invocations", *OPTIONS, "--out", tmp_path / "run")
        assert finding(tmp_path / "run", "randomised output").verdict == "warning"
        assert log.read_environment(tmp_path / "run")["remedies"]["calls"] == 1
        before = served.total
        audit(f"{served.url}/invocations", *OPTIONS, "--out", tmp_path / "run")
        assert served.total == before


def test_each_new_run_looks_past_the_ledger_for_another_model_and_no_continuation_does(tmp_path: Path) -> None:
    few = ("--limit", "12", "--attack", "square:steps=2", "--threat", "linf:0.12", "--no-doctor", "--out")
    with serving() as served:
        url = f"{served.url}/invocations"
        audit(url, *few, tmp_path / "a")
        asked = served.total
        for _ in range(2):
            audit(url, *few, tmp_path / "a")
        assert served.total == asked
        audit(url, *few, tmp_path / "b")  # the same spec in another folder
        assert served.total == asked + AGAIN
        assert finding(tmp_path / "b", "randomised output").verdict == "ok"
        (ledger,) = (Path(os.environ["SAPPER_CACHE"]) / "endpoints").glob("*.sqlite")
        served.answer = lambda x: (0.9 * classifier().predict_proba(x) + 0.01).tolist()
        audit(url, *few, tmp_path / "b")
        assert served.total == asked + AGAIN
        for again, run in enumerate(("c", "a"), 2):
            shutil.rmtree(tmp_path / run, ignore_errors=True)  # a folder of the same name is another run too
            answer = audit(url, *few, tmp_path / run, "--budget", str(asked + again * AGAIN))
            found = finding(tmp_path / run, "randomised output")
            assert found.verdict == "warning"
            assert found.evidence.startswith("4 samples that the ledger knows were asked again: ")
            assert f"delete its ledger {ledger} and audit into another folder" in found.remedy
            assert "another model is behind the address" in " ".join(answer.out.split())
            assert served.total == asked + again * AGAIN
        ledger.unlink()
        audit(url, *few, tmp_path / "d")
        assert finding(tmp_path / "d", "randomised output").verdict == "ok"


def test_a_run_that_ends_before_it_has_a_folder_goes_on_with_the_second_answers_that_it_has(tmp_path: Path) -> None:
    with serving() as served:
        audit(f"{served.url}/invocations", *OPTIONS, "--no-doctor", "--out", tmp_path / "first")
        asked = served.total
        path = tmp_path / "run"
        path.mkdir()
        (path / "mine").touch()
        for _ in range(2):
            answer = ask("audit", f"{served.url}/invocations", *OPTIONS, "--no-doctor", "--out", path)
            assert "is no run folder" in answer.err
        (path / "mine").unlink()
        audit(f"{served.url}/invocations", *OPTIONS, "--no-doctor", "--out", path)
        assert served.total == asked + AGAIN


def test_a_token_in_an_address_is_kept_by_its_name_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hush-hush")
    with serving(metadata={"platform": "p"}) as served:
        for number, path in enumerate(("invocations", "v2/models/m")):
            run, url = tmp_path / str(number), f"{served.url}/{path}?api_key="
            for command in ("audit", "steal"):
                words = (f"{url}hush-hush", "--data" if command == "audit" else "--seed-data", "digits")
                answer = ask(command, *words, *(() if command == "audit" else ("--budget", "300")), "--out", run)
                assert answer.code == 2
                assert "api_key=${NAME}" in answer.err
                assert "hush" not in answer.out + answer.err
            audit(f"{url}${{API_TOKEN}}", *OPTIONS, "--out", run, "--budget", "60", "--no-doctor")
            assert "api_key=${API_TOKEN}" in log.read_environment(run)["command"]
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"hush-hush" not in file.read_bytes(), file


def test_a_token_is_in_no_file_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hush-hush")
    with serving() as served:
        path = tmp_path / "service.toml"
        lines = (
            f'url = "{served.url}/invocations?key=${{API_TOKEN}}"',
            "[headers]",
            'Authorization = "Bearer ${API_TOKEN}"',
        )
        path.write_text("\n".join(lines))
        answer = audit(path, *OPTIONS, "--out", tmp_path / "run", "--budget", "60")
        assert served.headers[0]["Authorization"] == "Bearer hush-hush"
        assert "hush" not in answer.out + answer.err
        for file in tmp_path.rglob("*"):
            assert file.is_dir() or b"hush-hush" not in file.read_bytes(), file
