"""From the endpoint's address to samples that fool it: steal a substitute, craft on it, submit."""

from pathlib import Path

from audits import ask, audit, rows
from sapper import disk, log
from sapper.theft_spec import read_spoils
from servers import serving


def test_a_substitute_is_stolen_within_the_budget_and_what_fools_it_fools_the_endpoint(tmp_path: Path) -> None:
    with serving() as served:
        url, theft, run = f"{served.url}/v2/models/digits", tmp_path / "theft", tmp_path / "run"
        words = ("steal", url, "--seed-data", "digits", "--architecture", "softmax", "--budget", "300", "--out", theft)
        answer = ask(*words)
        assert answer.code == 0, answer.err
        assert read_spoils(theft).queries == log.read_usage(theft).sent == 300
        assert served.total == max(served.rows.values()) * len(served.rows) == 300
        assert len(disk.read_table(theft / "queries.parquet")) == served.total
        asked = served.total
        assert ask(*words).code == 0
        assert served.total == asked  # done is done
        audit(url, "--via", theft, "--limit", "40", "--attack", "fgsm", "--threat", "linf:0.3", "--out", run)
        assert log.read_summary(run).clean_accuracy > 0.8
        assert rows(run)["found"].mean() > 0.5
        assert served.total <= asked + 40 + 40  # a question for each clean sample, one for each submitted


def test_the_budget_holds_also_for_the_first_questions_which_are_of_the_theft(tmp_path: Path) -> None:
    """Rounded, and of fewer seeds than rows are asked about to see what the answers are."""
    with serving() as served:
        url, words = f"{served.url}/v2/models/digits", ("--architecture", "softmax", "--budget", "6", "--rate", "5000")
        answer = ask(
            "steal", url, "--seed-data", "digits", *words, "--seeds", "5", "--quantize", "2", "--out", tmp_path / "t"
        )
        assert answer.code == 0, answer.err
        assert served.total <= 6
