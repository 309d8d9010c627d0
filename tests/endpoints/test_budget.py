"""A budget of rows is kept to the row, and where it ends nothing that was found is lost."""

from collections import Counter
from pathlib import Path

import polars as pl
import torch

from audits import ask, assert_same_run, audit, rows, shards
from endpoint_runs import AGAIN, OPTIONS, finding, queries
from sapper import disk, doctor, log
from sapper.data.loading import load_data
from sapper.endpoints.endpoint import Terms
from sapper.models.loading import load_model
from sapper.scheduler import craft
from servers import Handler, classifier, serving


def test_the_budget_is_kept_to_the_row_and_more_of_it_goes_on(tmp_path: Path) -> None:
    run, free = tmp_path / "run", tmp_path / "free"
    with serving() as served:
        url = f"{served.url}/invocations"
        answer = audit(url, *OPTIONS, "--out", run, "--budget", "100")
        assert served.total == 100
        assert "100 of 100 queries" in answer.err
        assert "the budget is spent" in " ".join(answer.out.split())
        table = rows(run)
        stopped = table.filter(pl.col("error").is_not_null())
        assert 0 < len(stopped) < 24
        assert set(stopped["error"]) == {"the budget of 100 rows was spent before anything was found"}
        assert table["found"].sum() >= 1  # what was found stays
        assert queries(run)["is_spent"]
        assert finding(run, "queries").verdict == finding(run, "cases that could not be run").verdict == "warning"
        audit(url, *OPTIONS, "--out", run, "--budget", "100")
        assert served.total == 100
        assert log.read_environment(run)["command"].endswith(" --budget 100")
        audit(url, *OPTIONS, "--out", run, "--budget", "10000", "--rate", "5000")
        assert log.read_environment(run)["command"].endswith(" --budget 10000 --rate 5000.0")
        assert Counter(served.rows.values()) == {1: len(served.rows) - AGAIN, 2: AGAIN}
        assert rows(run)["error"].null_count() == 24
        audit(url, *OPTIONS, "--out", free)
        assert_same_run(run, free)


def test_a_run_is_done_again_from_the_ledger_also_where_its_budget_is_spent(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    words = ("--no-doctor", "--budget", "60", "--out")
    with serving() as served:
        for out in (run, run, other):
            audit(f"{served.url}/invocations", *OPTIONS, *words, out)
            assert served.total == 60
        assert_same_run(run, other)


def test_what_the_budget_cut_short_is_said_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with serving() as served:
        audit(f"{served.url}/invocations", *OPTIONS, "--out", run, "--budget", "100")
        left = 24 - rows(run)["error"].null_count()
        assert finding(run, "queries").remedy.startswith(
            f"{left} cases were left without an answer and could not be run:"
        )
        audit(f"{served.url}/invocations", *OPTIONS, "--out", run, "--budget", "10000")
    (folder,) = {path.parent.name for path in shards(run)}
    disk.write_json(run / "endpoint.json", {**queries(run), "is_spent": True})  # as where the probes met its end
    for threat, cut in (
        ("linf:0.12", "what was cut short is the doctor's probes:"),
        ("linf:min", "may not be the nearest"),
    ):
        (told,) = [one for one in doctor.examine(run, [("square", threat, folder)]) if one.check == "queries"]
        assert told.remedy.startswith("no case was left without an answer")
        assert cut in told.remedy
        assert "could not be run" not in told.remedy


def test_a_search_for_the_nearest_that_the_budget_cut_goes_on_with_more_of_it(tmp_path: Path) -> None:
    """What it had found by then is not the nearest yet."""
    run, free = tmp_path / "run", tmp_path / "free"
    words = ("--limit", "3", "--attack", "boundary:steps=60", "--threat", "l2:min", "--no-doctor", "--out")
    with serving() as served:
        url = f"{served.url}/invocations"
        audit(url, *words, run, "--budget", "120")
        assert queries(run)["is_spent"]
        audit(url, *words, run, "--budget", "10000")
        audit(url, *words, free)
        assert rows(run)["found"].all()
        assert_same_run(run, free)


def test_a_budget_counts_a_row_once_however_often_it_is_sent(tmp_path: Path) -> None:
    refused: list[int] = []

    def refuse(handler: Handler) -> None:
        refused.append(len(handler.rows))
        handler.reply(500, b"no")

    with serving(rude={2: refuse, 4: refuse, 7: refuse}) as served:
        path = tmp_path / "service.toml"
        path.write_text(f'url = "{served.url}/invocations"\nbackoff = 0.01\nrows = 8')
        audit(path, *OPTIONS, "--out", tmp_path / "run", "--budget", "70")
        assert queries(tmp_path / "run")["sent"] == 70
        assert queries(tmp_path / "run")["retried"] == 3
        assert served.total == 70 + sum(refused)


def test_a_budget_that_does_not_reach_the_attacks_says_so_and_keeps_what_it_got(tmp_path: Path) -> None:
    with serving() as served:
        for budget in ("20", "5", "26"):
            answer = ask("audit", f"{served.url}/invocations", *OPTIONS, "--out", tmp_path / "run", "--budget", budget)
            assert answer.code == 2
            assert f"the budget of {budget} rows is spent before" in answer.err
            assert not (tmp_path / "run").exists()
            assert served.total == max(20, int(budget))
        audit(f"{served.url}/invocations", *OPTIONS, "--out", tmp_path / "run")
        assert Counter(served.rows.values()) == {1: len(served.rows) - AGAIN, 2: AGAIN}


def test_without_answers_labels_are_nobodys(tmp_path: Path) -> None:
    data = load_data("digits", limit=12)
    with serving(answer=lambda x: classifier().predict(x).tolist()) as served:
        model = load_model(f"{served.url}/invocations", like=data, terms=Terms(budget=10))
        answer = model.module(data.x)
        assert answer.isnan().all(1).tolist() == [False] * 10 + [True] * 2
        assert (answer[:10].argmax(1).numpy() == classifier().predict(data.x[:10].flatten(1).numpy())).all()


def test_craft_keeps_what_was_found_when_the_budget_ends(tmp_path: Path) -> None:
    data = load_data("digits", limit=30)
    with serving() as served:
        free = load_model(f"{served.url}/invocations", like=data, terms=Terms("free"))
        whole = craft(free.module, data.x, data.y, attack="square:steps=15", threat="linf:0.2")
    with serving() as served:
        some = load_model(f"{served.url}/invocations", like=data, terms=Terms(budget=150))
        part = craft(some.module, data.x, data.y, attack="square:steps=15", threat="linf:0.2")
        assert served.total == 150
    assert 0 < int(part.found.sum()) < int(whole.found.sum())
    assert bool(whole.found[part.found].all())
    torch.testing.assert_close(part.x_adv[part.found], whole.x_adv[part.found])
    assert not bool(part.broken[part.found].any())
    assert int(part.forwards.sum()) <= 150 + 8


def test_a_budget_for_a_model_that_is_no_endpoint_is_refused(tmp_path: Path) -> None:
    import skops.io

    skops.io.dump(classifier(), tmp_path / "digits.skops")
    answer = ask("audit", tmp_path / "digits.skops", *OPTIONS, "--budget", "5")
    assert answer.code == 2
    assert "--budget and --rate are for endpoints" in answer.err
    for option, value in (("--budget", "0"), ("--rate", "-1")):
        answer = ask("audit", "http://127.0.0.1:1/invocations", *OPTIONS, option, value)
        assert answer.code == 2
        assert "above 0" in answer.err
