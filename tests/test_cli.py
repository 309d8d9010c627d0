import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audits import ENVIRONMENT, SAPPER, ask, audit, process, trained
from sapper import catalogue

COMMANDS = ["attacks", "audit", "cite", "compare", "doctor", "report", "show", "threats", "train"]
ATTACKS = sorted(catalogue.attacks())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(model, tmp_path_factory.mktemp("runs") / "run", "--attack", "jsma", "--attack", "fgsm")


def made(model: Path, run: Path, *words: str) -> Path:
    audit(model, "--limit", "10", "--threat", "l0:10%", "--no-doctor", *words, "--out", run)
    return run


def test_help_names_every_command() -> None:
    answer = ask("--help")
    assert answer.code == 0
    assert [name for name in COMMANDS if re.search(rf"^│ {name} ", answer.out, re.MULTILINE)] == COMMANDS


def test_help_of_audit_explains_every_option() -> None:
    text = ask("audit", "--help").out
    for option in ("data", "threat", "attack", "goal", "limit", "seed", "out", "weights", "mean", "std", "resize",
                   "split", "bounds", "quantize", "queries", "batch-size", "doctor", "device", "json"):  # fmt: skip
        assert re.search(rf"--{option}\b.*\w\w", text), option


def test_help_does_not_wait_for_what_is_heavy() -> None:
    command = [sys.executable, "-X", "importtime", SAPPER, "--help"]
    answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "sapper.cli" in imported
    assert not imported & {"torch", "polars", "numpy", "altair", "sklearn", "safetensors", "sapper.run"}


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", ask("--version").out)


def test_json_is_all_there_is_on_stdout_and_progress_goes_elsewhere(model: Path, tmp_path: Path) -> None:
    words = ("audit", model, "--limit", "10", "--attack", "fgsm", "--threat", "linf:0.1", "--json", "--out", tmp_path)
    running = process(*words)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0
    assert json.loads(out) == json.loads((tmp_path / "summary.json").read_text())
    assert re.search(r"^fgsm linf:0\.1: \d+ of 10 found$", err, re.MULTILINE)
    assert "Traceback" not in err


def test_the_verdict_is_a_table_with_the_path_of_the_report(model: Path, tmp_path: Path) -> None:
    answer = audit(model, "--limit", "10", "--attack", "fgsm", "--threat", "linf:0.1", "--out", tmp_path)
    assert "small-network on digits: clean accuracy" in answer.out
    assert "worst" in answer.out
    assert answer.out.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_what_the_checks_found_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("soft_model.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(), nn.Softmax(1)).train()\n"
    )
    text = " ".join(audit("soft_model:make", "--limit", "5", "--attack", "fgsm", "--threat", "linf:0.1").out.split())
    assert "note: outputs are logits: all outputs lie in [0, 1] and sum to 1" in text
    assert "evaluation mode: no layer" not in text  # what is in order is in the report only


def test_attacks_lists_every_one() -> None:
    text = ask("attacks").out
    assert [name for name in ATTACKS if re.search(rf"│ {name} ", text)] == ATTACKS
    assert [one["name"] for one in json.loads(ask("attacks", "--json").out)] == ATTACKS


@pytest.mark.parametrize("name", catalogue.suites())
def test_suites_are_listed_and_shown(name: str) -> None:
    assert re.search(rf"│ {name} ", ask("attacks").out)
    suite = catalogue.suites()[name]
    assert json.loads(ask("show", name, "--json").out)["cascade"] == suite.cascade
    shown = ask("show", name).out
    assert all(f"\n  {attack}\n" in shown for attack in suite.cascade or suite.attacks)


@pytest.mark.parametrize("name", ATTACKS)
def test_show_has_options_with_help_norms_access_and_paper(name: str) -> None:
    method = catalogue.attacks()[name]
    facts = json.loads(ask("show", name, "--json").out)
    assert facts["norms"] == catalogue.norms(method)
    assert facts["access"] in ("gradients", "scores", "labels")
    assert [option["name"] for option in facts["options"]] == [option.name for option in catalogue.options(method)]
    assert all(option["help"] for option in facts["options"])
    assert facts["paper"]["bibtex"].startswith("@")
    text = " ".join(ask("show", name).out.split())
    assert method.paper.title in text
    assert method.paper.url in text
    assert f"norms: {' '.join(catalogue.norms(method))}" in text
    assert all(option.name in text for option in catalogue.options(method))


def test_threats_shows_goals_against_capabilities() -> None:
    text = ask("threats").out
    rows = [line for line in text.splitlines() if line.startswith("│")]
    words = " ".join(" ".join(row.strip("│").split("│")[0].strip() for row in rows).split())
    for goal in ("confidence reduction", "misclassification", "targeted", "source/target"):
        assert goal in words
    assert all(re.search(rf"\b{name}\b", text) for name in ATTACKS)
    assert "l0:14.5%" in text


def test_cite_prints_exactly_what_was_used(run: Path, model: Path, tmp_path: Path) -> None:
    titles = re.findall(r"^\s*title\s*=\s*\{+(.*?)\}", ask("cite", run).out, re.MULTILINE)
    used = [catalogue.attacks()[name].paper.title for name in ("jsma", "fgsm")]
    assert sorted(title.strip("{} ") for title in titles) == sorted(used)
    restarts = made(model, tmp_path / "b", "--attack", "2*pgd:steps=2")
    assert ask("cite", restarts).out.count("@") == 1


def test_report_is_written_again(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "[old] :x: run"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    answer = ask("report", copy)
    assert answer.code == 0
    assert answer.out == f"{copy / 'report.html'}\n"
    assert (copy / "report.html").is_file()


def test_compare_sets_two_runs_side_by_side(run: Path, model: Path, tmp_path: Path) -> None:
    other = made(model, tmp_path / "b", "--attack", "jsma", "--attack", "fgsm", "--seed", "3")
    assert "seed" in ask("compare", run, other).out
    compared = json.loads(ask("compare", run, other, "--json").out)
    assert compared["paired"] is True
    assert [row["attack"] for row in compared["rows"]] == ["jsma", "fgsm"]


def test_the_doctor_explains_each_finding_the_gravest_first(model: Path, tmp_path: Path) -> None:
    words = ("--limit", "25", "--attack", "pgd:steps=5,step_size=0.001", "--threat", "linf:0.1", "--out", tmp_path)
    audit(model, *words)
    answer = ask("doctor", tmp_path)
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert text.startswith("warning: ")
    assert "warning: step size means: Steps that do not add up" in text
    assert "seen: all steps of pgd:steps=5,step_size=0.001 together are 0.05 of the budget linf:0.1." in text
    assert "do: leave step_size out" in text
    assert "checks warn: mend their causes" in text
    findings = json.loads(ask("doctor", tmp_path, "--json").out)
    assert list(findings[0]) == ["check", "verdict", "evidence", "remedy", "meaning"]
    assert [f["verdict"] for f in findings] == sorted(
        (f["verdict"] for f in findings), key=["warning", "note", "ok"].index
    )
    assert len(findings) == len(json.loads((tmp_path / "summary.json").read_text())["findings"])
    assert "these figures may be wrong" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("command", ["report", "cite", "compare", "doctor"])
def test_no_run_folder_is_said_so(command: str, run: Path, tmp_path: Path) -> None:
    answer = ask(command, tmp_path, *([run] if command == "compare" else []))
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["report", "compare", "doctor"])
def test_a_run_that_is_not_finished_is_said_so(command: str, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink()
    answer = ask(command, copy, *([run] if command == "compare" else []))
    assert answer.code == 2
    assert "not finished" in answer.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["show", "jsam"], "unknown attack 'jsam': did you mean jsma"),
        (["audti"], 'Did you mean "audit"?'),
        (["audit", "--treat", "linf:0.1"], "Did you mean --threat?"),
        (["train", "lenett", "--data", "digits", "--out", "x"], "unknown architecture 'lenett': did you mean lenet"),
        (["train", "lenet"], "--data"),
    ],
)
def test_a_slip_of_the_keys_is_mended(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ask(*words)
    assert answer.code == 2
    assert hint in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error() -> None:
    running = process("attacks", "--json")
    assert running.stdout is not None
    running.stdout.close()
    _, err = running.communicate(timeout=300)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
