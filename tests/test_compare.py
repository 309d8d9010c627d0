import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from audits import ask
from fake_run import PLANS, Plan, write_fake_run
from sapper import disk, log
from sapper.compare import Comparison, compare, print_comparison
from sapper.errors import RunError

WEAK = (Plan(attack="fgsm", threat="linf:0.1", strength=0.9), Plan(attack="pgd", threat="linf:0.1", strength=0.95))
STRONG = tuple(replace(plan, strength=0.1) for plan in WEAK)
WEAKER = tuple(replace(plan, threat="linf:0.3") for plan in WEAK)
TARGETED = tuple(replace(plan, goal="targeted:every") for plan in WEAK)


def shown(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_equals_itself(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "a")
    comparison = compare(run, run)
    assert comparison.paired
    assert len(comparison.rows) == len(PLANS)
    for row in comparison.rows:
        assert row.refused is None
        assert row.success_rate is not None
        assert row.success_rate.difference == 0
    assert {worst.p_value for worst in comparison.worst_case} == {1.0}
    assert "no significant difference" in shown(comparison)


def test_a_stronger_model_is_significantly_so(tmp_path: Path) -> None:
    weak = write_fake_run(tmp_path / "weak", plans=WEAK, model="weak")
    strong = write_fake_run(tmp_path / "strong", plans=STRONG, model="strong", seed=1)
    comparison = compare(weak, strong)
    worst = comparison.worst_case[0]
    assert worst.method == "McNemar, exact"
    assert worst.p_value is not None
    assert worst.p_value < 0.001
    assert worst.robust_accuracy is not None
    assert worst.robust_accuracy.difference is not None
    assert worst.robust_accuracy.difference > 0.5
    assert "significantly higher" in shown(comparison)
    assert "model: weak → strong" in comparison.differences
    assert "significantly lower" in compare(strong, weak).worst_case[0].statement


def test_other_inputs_of_the_same_data_are_compared_by_intervals(tmp_path: Path) -> None:
    weak = write_fake_run(tmp_path / "weak", plans=WEAK)
    strong = write_fake_run(tmp_path / "strong", plans=STRONG)
    x = log.read_inputs(strong)
    disk.write_tensors(strong / "samples.safetensors", {"x": x[::-1].copy()})
    comparison = compare(weak, strong)
    worst = comparison.worst_case[0]
    assert not comparison.paired
    assert worst.method == "Newcombe interval"
    assert worst.p_value is None
    assert worst.interval is not None
    assert worst.interval[0] > 0
    assert "significantly higher" in worst.statement


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "mnist"}, "data differs: digits against mnist"),
        ({"samples": 30}, "number of samples differs: 40 against 30"),
        ({"plans": WEAKER}, "threat differs: linf:0.1 against linf:0.3"),
        ({"plans": TARGETED}, "goal differs: misclassification against targeted:every"),
        ({"plans": (Plan(attack="bim", threat="linf:0.1"),)}, "only the first run has it"),
    ],
)
def test_unlike_is_refused_with_the_reason(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    first = write_fake_run(tmp_path / "a", plans=WEAK)
    second = write_fake_run(tmp_path / "b", **({"plans": WEAK} | change))  # pyright: ignore
    comparison = compare(first, second)
    rows = [row for row in comparison.rows if row.attack != "bim"]
    assert [row.refused for row in rows] == [reason] * 2
    assert all(row.success_rate is None and row.robust_accuracy is None for row in rows)
    assert all(worst.refused and worst.p_value is None for worst in comparison.worst_case)
    assert "not compared" in shown(comparison)


def test_a_worst_case_over_other_attacks_is_refused(tmp_path: Path) -> None:
    first = write_fake_run(tmp_path / "a", plans=WEAK)
    second = write_fake_run(tmp_path / "b", plans=WEAK[:1])
    worst = compare(first, second).worst_case[0]
    assert worst.refused == "attacks differ: fgsm, pgd against fgsm"


def by_way_of(run: Path, *substitutes: str, digest: str = "one") -> Path:
    """As a run made with --via."""
    disk.write_toml(run / "spec.toml", {**log.read_spec(run), "via": list(substitutes), "via_digest": digest})
    return run


def test_runs_by_substitutes_are_compared_and_said_to_be_of_what_was_submitted(tmp_path: Path) -> None:
    first = by_way_of(write_fake_run(tmp_path / "a", plans=WEAK), "stolen/substitute")
    second = by_way_of(write_fake_run(tmp_path / "b", plans=STRONG), "stolen/substitute")
    third = by_way_of(write_fake_run(tmp_path / "c", plans=STRONG), "other", "third", digest="two")
    same, other = compare(first, second), compare(first, third)
    assert (same.via, same.same_substitutes, same.refused) == (
        (["stolen/substitute"], ["stolen/substitute"]),
        True,
        None,
    )
    assert (other.via[1], other.same_substitutes) == (["other", "third"], False)
    assert "crafted on a substitute and submitted: on stolen/substitute in both" in shown(same)
    assert "on stolen/substitute in the first, on other and third in the second" in shown(other)
    for comparison in (same, other):
        assert comparison.paired
        assert "significantly higher" in comparison.worst_case[0].statement
    assert "submitted" not in shown(compare(*(write_fake_run(tmp_path / n, plans=WEAK) for n in "de")))


def test_what_was_crafted_on_a_substitute_is_not_compared_with_what_saw_the_model(tmp_path: Path) -> None:
    first = write_fake_run(tmp_path / "a", plans=WEAK)
    second = by_way_of(write_fake_run(tmp_path / "b", plans=WEAK), "stolen/substitute")
    reason = "what attacks saw differs: the model against a substitute"
    comparison = compare(first, second)
    assert comparison.refused == reason
    assert {row.refused for row in comparison.rows} == {reason}
    answer = ask("compare", first, second)
    assert (answer.code, answer.out) == (2, "")
    assert f"cannot be compared: {reason}." in answer.err
    assert json.loads(ask("compare", first, second, "--json").out)["refused"] == reason


def test_folders_of_other_commands_are_told_apart(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "a")
    for name, told in (("rounds.json", "is a steal folder, .* compare audits --via it"), ("study.json", "of a study")):
        other = tmp_path / name.partition(".")[0]
        disk.write_json(other / name, {})
        with pytest.raises(RunError, match=told):
            compare(run, other)


def test_json_and_hostile_names(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "a", model="[red]evil[/nonsense]")
    comparison = compare(run, run)
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison
    assert "[red]evil[/nonsense]" in shown(comparison)


def test_an_unfinished_run_is_one_clear_error(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "a")
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        compare(run, run)


def test_imports_no_torch() -> None:
    code = "import sys, sapper.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
