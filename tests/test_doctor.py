"""A ward of sick models: each illness is named, and the healthy get a clean bill."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from sapper import catalogue, disk, doctor, log, meanings, preflight, probes, run
from sapper.data.loading import load_data
from sapper.models.model import Model
from sapper.oracle import TorchOracle
from sapper.spec import Spec
from sapper.threat import Threat

pytestmark = pytest.mark.usefixtures("as_a_user")  # shape checks would triple the time; `test_run` has them on
DATA = load_data("digits", limit=100)
CPU = torch.device("cpu")


class Net(nn.Module):
    """A small network, and what somebody did to its inputs, its activations and its answers."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z,
                 activation: Callable[[Tensor], Tensor] = torch.relu) -> None:  # fmt: skip
        super().__init__()
        self.before, self.after, self.activation = before, after, activation
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.first(self.before(x.flatten(1))))
        return self.after(self.last(self.activation(self.second(h))))


@cache
def weights(
    temperature: float = 1.0, eps: float = 0.0, steps: int = 400, activation: Callable[[Tensor], Tensor] = torch.relu
) -> dict[str, Tensor]:
    """Trained at a temperature, or against PGD."""
    data = load_data("digits", split="train")
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = Net(activation=activation)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(data), (128,))
            x, y = data.x[rows], data.y[rows]
            x_adv = attacked(net, x, y, eps) if eps else x
            optimiser.zero_grad()
            functional.cross_entropy(net(x_adv) / temperature, y).backward()
            optimiser.step()
    return net.state_dict()


def attacked(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(7):
        leaf = x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(net(leaf), y), leaf)
        x_adv = (x_adv.detach() + eps / 3 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return x_adv.detach()


def net(learned: dict[str, Tensor] | None = None, **changes: Callable[[Tensor], Tensor]) -> Net:
    found = Net(**changes)
    found.load_state_dict(learned or weights())
    return found


def audited(module: nn.Module, folder: Path, **options) -> dict[str, log.Finding]:
    asked = {"threats": ("linf:0.1",), "attacks": ("pgd",)} | options
    spec = Spec(model="net", data="digits", **asked)
    model = Model("net", "net", module.eval(), "0", (1, 8, 8), 10, "")
    _, summary = run.audit(spec, model, DATA, folder, CPU, Console(file=io.StringIO()))
    return {finding.check: finding for finding in summary.findings}


def ill(findings: dict[str, log.Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict == "warning"}


def hardened() -> dict[str, Tensor]:
    return weights(eps=0.1, steps=600)


def steep(by: float = 100.0) -> Net:
    """Trained with tanh, then its inner layers multiplied: the decisions stay, the gradients vanish."""
    found = net(weights(activation=torch.tanh), activation=torch.tanh)
    with torch.no_grad():
        for layer in (found.first, found.second):
            layer.weight.mul_(by)
            layer.bias.mul_(by)
    return found


class Detached(Net):
    """Nearly all of the answer goes through a layer that no gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return super().forward(x).detach() + 1e-3 * x[:, :10]


def detached() -> Net:
    found = Detached()
    found.load_state_dict(weights())
    return found


def staircase(x: Tensor) -> Tensor:
    low = (8 * x).floor()
    return (low + torch.sigmoid(400 * (8 * x - low - 0.5))) / 8


@dataclass(frozen=True)
class Patient:
    module: Callable[[], nn.Module]
    warns: set[str]
    """At least these checks."""
    options: dict[str, object]


def patient(module: Callable[[], nn.Module], *warns: str, **options: object) -> Patient:
    return Patient(module, set(warns), options)


WITHOUT = "gradients along the attacks", "loss along the attacks"
WARD = {
    "quantised input": patient(
        lambda: net(before=lambda x: (8 * x).round() / 8), "gradients", "largest budget", "attacks without gradients", *WITHOUT
    ),
    "smooth stairs": patient(lambda: net(before=staircase), "gradients", "largest budget", WITHOUT[0]),
    "logits x 100": patient(lambda: net(after=lambda z: 100 * z), "outputs are logits", *WITHOUT, doctor=False),
    "logits x 10 000": patient(lambda: net(after=lambda z: 1e4 * z), "outputs are logits", *WITHOUT, doctor=False),
    "distilled": patient(lambda: net(weights(temperature=100.0)), "outputs are logits", *WITHOUT, doctor=False),
    "flat logits": patient(lambda: net(after=lambda z: z / 100), "outputs are logits", doctor=False),
    "softmax": patient(lambda: net(after=lambda z: z.softmax(1)), "outputs are logits", doctor=False),
    "hard softmax": patient(lambda: net(after=lambda z: (100 * z).softmax(1)), "gradients", "largest budget", *WITHOUT),
    "noise layer": patient(
        lambda: net(after=lambda z: z + 2 * torch.randn_like(z)), "randomised output", "more steps"
    ),
    "dropout left on": patient(
        lambda: net(before=lambda x: functional.dropout(x, 0.3, training=True)), "randomised output"
    ),
    "vanishing activation": patient(steep, "gradients", *WITHOUT),
    "no gradient at all": patient(
        lambda: net(after=lambda z: z.detach()), "gradients", "cases that could not be run"
    ),
    "detached layer": patient(detached, "gradients", "largest budget", "attacks without gradients"),
    "rounding, by a stand-in": patient(
        lambda: net(before=lambda x: (8 * x).round() / 8), "transferred samples", "attacks without gradients",
        threats=("linf:0.25",), attacks=("fgsm",),
    ),
    "one step": patient(net, "more steps", attacks=("fgsm",), threats=("linf:0.08",)),
    "steps too small": patient(net, "step size", attacks=("pgd:steps=10,step_size=0.001",)),
    "steps too large": patient(net, "step size", attacks=("pgd:steps=10,step_size=0.5",)),
    "shown in other units": patient(lambda: net(before=lambda x: x * 255 - 100), "clean accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARD)
def test_each_illness_is_named(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)  # of what a randomised model draws, in one of ten seeds too little speaks
    sick = WARD[name]
    findings = audited(sick.module(), tmp_path, **sick.options)
    assert sick.warns <= ill(findings), {name: finding.evidence for name, finding in findings.items()}
    assert all(findings[check].remedy for check in ill(findings))
    assert set(findings) <= set(meanings.MEANINGS)


@pytest.mark.parametrize(
    ("learned", "goal"),
    [(weights, "misclassification"), (hardened, "misclassification"), (hardened, "targeted:random")],
    ids=["plain", "adversarially trained", "targeted"],
)
def test_the_healthy_get_a_clean_bill(learned: Callable[[], dict[str, Tensor]], goal: str, tmp_path: Path) -> None:
    findings = audited(net(learned()), tmp_path, attacks=("pgd", "mifgsm"), goal=goal)
    assert ill(findings) == set(), {name: findings[name].evidence for name in ill(findings)}
    assert len(findings) >= 13


@pytest.mark.parametrize(
    ("attack", "threat"), [("quick", "linf:0.1"), ("carlini_wagner:steps=100", "l2:0.5"), ("minimal", "l2:min")]
)
def test_steps_in_units_of_their_own_are_no_illness(attack: str, threat: str, tmp_path: Path) -> None:
    findings = audited(net(hardened()), tmp_path, attacks=(attack,), threats=(threat,))
    assert ill(findings) == set(), {name: findings[name].evidence for name in ill(findings)}


def test_a_weak_attack_is_called_weak_and_the_model_is_not_accused(tmp_path: Path) -> None:
    findings = audited(net(hardened()), tmp_path, attacks=("universal",), threats=("linf:0.2",))
    assert ill(findings) == {"more steps"}


def test_gradients_that_are_not_finite_at_black_pixels_are_seen_and_followed_elsewhere(tmp_path: Path) -> None:
    findings = audited(net(before=lambda x: x + 0 * x.sqrt()), tmp_path, attacks=("pgd",))
    assert "nan or infinity" in findings["gradients"].evidence
    assert "cases that could not be run" not in findings
    robust = log.read_summary(tmp_path).worst_case[0].robust_accuracy
    audited(net(), tmp_path / "sound")
    sound = log.read_summary(tmp_path / "sound").worst_case[0].robust_accuracy
    assert sound is not None
    assert robust is not None
    assert sound <= robust < 1


def test_an_attack_that_crashed_did_not_beat_the_others(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a")
    none = [None] * 4
    shard(tmp_path, "b", found=none, backwards=none, forwards=none, error=["it failed"] * 4)
    assert found_in(tmp_path, WORK)["attacks without gradients"].verdict == "ok"


def test_a_fair_model_of_two_classes_is_not_in_doubt() -> None:
    assert preflight._accuracy(0.85, 2, 0.5, 100, None).verdict == "ok"
    assert preflight._accuracy(0.85, 2, 0.85, 100, None).verdict == "warning"
    assert preflight._accuracy(0.15, 10, 0.1, 100, None).verdict == "warning"


REMEDIED = {
    "logits x 100": (lambda z: 100 * z, "logits divided by"),
    "logits x 10 000": (lambda z: 1e4 * z, "logits divided by"),
    "logits / 100": (lambda z: z / 100, "logits multiplied by"),
    "softmax": (lambda z: z.softmax(1), "shown their logarithms"),
}


@pytest.mark.parametrize("name", REMEDIED)
def test_what_can_be_cured_is_and_the_figure_is_that_of_the_sound_network(name: str, tmp_path: Path) -> None:
    after, said = REMEDIED[name]
    findings = audited(net(after=after), tmp_path / "sick")
    assert findings["outputs are logits"].verdict == "note"
    assert said in findings["outputs are logits"].remedy
    assert ill(findings) == set()
    audited(net(), tmp_path / "sound", doctor=False)
    robust = [log.read_summary(tmp_path / one).worst_case[0].robust_accuracy for one in ("sick", "sound")]
    assert robust[0] == pytest.approx(robust[1], abs=0.02)
    assert json.loads((tmp_path / "sick" / "environment.json").read_text())["remedies"] != {}


def test_a_distilled_network_falls_once_its_logits_are_scaled(tmp_path: Path) -> None:
    for folder, cured in (("blind", False), ("cured", True)):
        audited(net(weights(temperature=100.0)), tmp_path / folder, doctor=cured)
    blind, cured = (log.read_summary(tmp_path / folder).worst_case[0].robust_accuracy for folder in ("blind", "cured"))
    assert blind is not None
    assert cured is not None
    assert cured < blind - 0.4


def test_a_randomised_model_is_attacked_in_the_mean_and_every_call_is_counted(tmp_path: Path) -> None:
    def noisy() -> nn.Module:
        return net(before=lambda x: x + 0.1 * torch.randn_like(x))

    findings = audited(noisy(), tmp_path / "mean")
    assert "mean of 8 calls" in findings["randomised output"].remedy
    forwards = log.read_cases(tmp_path / "mean", "pgd.linf-0.1")["forwards"]
    assert (forwards % 8 == 0).all()
    audited(noisy(), tmp_path / "few", queries=20)  # nobody with 20 questions can ask 8 times each
    assert log.read_cases(tmp_path / "few", "pgd.linf-0.1")["forwards"].max() == 20


@pytest.mark.parametrize(
    "noisy",
    [
        lambda: net(after=lambda z: z + 2 * torch.randn_like(z)),
        lambda: net(before=lambda x: x + 0.1 * torch.randn_like(x)),
    ],
)
def test_noise_makes_no_model_robust(noisy: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A success that one call in two undoes would leave 0.5 to 0.7 of the samples standing."""
    torch.manual_seed(0)
    audited(net(), tmp_path / "plain")
    audited(noisy(), tmp_path / "noisy")
    plain, random = (log.read_summary(tmp_path / name).worst_case[0].robust_accuracy for name in ("plain", "noisy"))
    assert plain is not None
    assert random is not None
    assert random < plain + 0.15


def test_slopes_that_single_precision_rounds_away_are_followed_in_float64(tmp_path: Path) -> None:
    found = [audited(steep(by=30), tmp_path / str(cured), doctor=cured)["gradients"] for cured in (False, True)]
    assert [finding.verdict for finding in found] == ["warning", "warning"]  # float64 helps, and does not heal
    assert "in float64 zero at" in found[1].evidence
    blind, cured = (log.read_summary(tmp_path / str(cured)).worst_case[0].robust_accuracy for cured in (False, True))
    assert blind is not None
    assert cured is not None
    assert cured < blind - 0.05
    assert json.loads((tmp_path / "True" / "environment.json").read_text())["remedies"]["double"]


def test_goals_that_are_about_the_outputs_are_shown_them_as_they_are(tmp_path: Path) -> None:
    audited(net(after=lambda z: 100 * z), tmp_path, goal="confidence:0.5")
    remedies = json.loads((tmp_path / "environment.json").read_text())["remedies"]
    assert remedies == {"logarithm": False, "scale": 1.0, "calls": 1, "noise": 0.0, "double": False}


def test_probes_are_kept_repeatable_and_left_out_when_asked(tmp_path: Path) -> None:
    audited(net(), tmp_path / "a")
    audited(net(), tmp_path / "b")
    probes = log.read_probes(tmp_path / "a")
    assert probes == log.read_probes(tmp_path / "b")
    assert {"more steps", "largest budget", "random noise", "surrogate"} <= {probe.name for probe in probes}
    assert all(0 < probe.cases <= 64 for probe in probes)
    before = (tmp_path / "a" / "doctor.json").stat().st_mtime_ns
    audited(net(), tmp_path / "a")
    assert (tmp_path / "a" / "doctor.json").stat().st_mtime_ns == before
    findings = audited(net(), tmp_path / "none", doctor=False)
    assert not (tmp_path / "none" / "doctor.json").exists()
    assert "more steps" not in findings
    assert "gradients along the attacks" in findings


def begun(run_folder: Path, preflight: list[log.Finding] | None = None, probes: list[log.Probe] | None = None) -> Path:
    disk.write_json(run_folder / "preflight.json", preflight or [])
    if probes is not None:
        disk.write_json(run_folder / "doctor.json", probes)
    return run_folder


def shard(run_folder: Path, folder: str, **columns: list[object]) -> None:
    """Four cases, right when clean; what is not given is as of an attack that worked and failed."""
    usual: dict[str, list[object]] = {
        "sample": [0, 1, 2, 3], "label": [0] * 4, "clean_prediction": [0] * 4, "found": [False] * 4,
        "forwards": [10] * 4, "backwards": [10] * 4, "zero_gradients": [0] * 4, "bad_gradients": [0] * 4,
        "first_margin": [5.0] * 4, "best_margin": [1.0] * 4,
    }  # fmt: skip
    given = usual | columns
    table = pl.DataFrame({name: given.get(name, [None] * 4) for name in log.CASE}, schema=log.CASE)
    disk.write_table(run_folder / "shards" / folder / "00000.parquet", table)


WORK = [("one", "linf:0.1", "a"), ("two", "linf:0.1", "b")]


def found_in(run_folder: Path, work: list[tuple[str, str, str]]) -> dict[str, log.Finding]:
    return {finding.check: finding for finding in doctor.examine(run_folder, work)}


def test_a_blind_attack_warns_only_if_no_other_saw(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a", zero_gradients=[5, 4, 10, 0], bad_gradients=[0, 1, 0, 0], best_margin=[5.0, 5.0, 5.0, 1.0])
    finding = found_in(tmp_path, WORK[:1])["gradients along the attacks"]
    assert finding.verdict == "warning"
    assert finding.evidence.startswith("under linf:0.1 3 of 4 cases that held had no gradient")
    shard(tmp_path, "b")
    finding = found_in(tmp_path, WORK)["gradients along the attacks"]
    assert (finding.verdict, "one under linf:0.1 had none for 3 of 4 cases" in finding.evidence) == ("note", True)


def test_cases_that_fell_or_were_wrong_from_the_start_do_not_count_as_held(tmp_path: Path) -> None:
    begun(tmp_path)
    blind = {"zero_gradients": [10] * 4, "best_margin": [5.0] * 4}
    shard(tmp_path, "a", found=[True, True, True, False], clean_prediction=[0, 0, 0, 1], **blind)
    findings = found_in(tmp_path, WORK[:1])
    assert findings["gradients along the attacks"].verdict == "note"  # it saw nothing, and nothing rests on that
    assert findings["loss along the attacks"].verdict == "ok"


def test_an_attack_that_gets_nowhere_is_named(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a", best_margin=[5.0, 5.0, 4.9, 1.0])
    finding = found_in(tmp_path, WORK[:1])["loss along the attacks"]
    assert (finding.verdict, "in 2 of 4 cases that held" in finding.evidence) == ("warning", True)
    shard(tmp_path, "a", best_margin=[5.0] * 4, forwards=[1] * 4)  # who asks once cannot get nearer
    assert found_in(tmp_path, WORK[:1])["loss along the attacks"].verdict == "ok"


def test_who_sees_less_and_finds_more_is_named(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a")
    shard(tmp_path, "b", backwards=[0] * 4, found=[True, True, True, False])
    finding = found_in(tmp_path, WORK)["attacks without gradients"]
    assert finding.verdict == "warning"
    assert finding.evidence == "3 of 4 cases that held under linf:0.1 fell to two"


def test_who_had_too_little_time_is_not_called_misled(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a", forwards=[2] * 4, backwards=[1] * 4)
    shard(tmp_path, "b", backwards=[0] * 4, found=[True, True, True, False], forwards=[500] * 4)
    finding = found_in(tmp_path, WORK)["attacks without gradients"]
    assert finding.verdict == "note"
    assert (
        finding.evidence
        == "3 of 4 cases that held under linf:0.1 fell to two, and had fewer than 10 gradients to go by"
    )
    shard(tmp_path, "c", backwards=[9] * 4)  # with another that looked on, it is time enough
    assert found_in(tmp_path, [*WORK, ("three", "linf:0.1", "c")])["attacks without gradients"].verdict == "warning"


def test_successes_that_no_picture_holds_are_told(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a", found=[True] * 4, survives_8_bits=[True, False, False, None])
    finding = found_in(tmp_path, WORK[:1])["8-bit rounding"]
    assert (finding.verdict, "2 of 3 successes of one" in finding.evidence) == ("note", True)
    assert "--quantize 8" in finding.remedy
    shard(tmp_path, "a", found=[True] * 4, survives_8_bits=[True, True, True, None])
    assert found_in(tmp_path, WORK[:1])["8-bit rounding"].verdict == "ok"


def test_changes_of_any_size_that_fail_are_a_failure_of_the_attack(tmp_path: Path) -> None:
    begun(tmp_path)
    shard(tmp_path, "a", found=[True, False, False, False])
    finding = found_in(tmp_path, [("one", "l2:min", "a")])["largest budget"]
    assert (finding.verdict, "3 of 4 cases hold under l2:min" in finding.evidence) == ("warning", True)


@pytest.mark.parametrize(("broken", "verdict"), [(0, "ok"), (1, "note"), (2, "note"), (3, "warning"), (16, "warning")])
@pytest.mark.parametrize(
    ("probe", "check"),
    [
        ("more steps", "more steps"), ("random noise", "attacks without gradients"),
        ("square", "attacks without gradients"), ("surrogate", "transferred samples"),
    ],
)  # fmt: skip
def test_a_few_that_fall_to_a_probe_are_chance(
    probe: str, check: str, broken: int, verdict: str, tmp_path: Path
) -> None:
    begun(tmp_path, probes=[log.Probe(probe, "linf:0.1", "it", 16, broken)])
    shard(tmp_path, "a")
    finding = found_in(tmp_path, WORK[:1])[check]
    assert finding.verdict == verdict
    assert f"{broken} of 16 cases that held under linf:0.1 fall to it" in finding.evidence


def test_rows_of_an_earlier_version_are_examined_as_far_as_they_go(tmp_path: Path) -> None:
    begun(tmp_path, preflight=[log.Finding("evaluation mode", "ok", "seen", "")])
    shard(tmp_path, "a")
    path = tmp_path / "shards" / "a" / "00000.parquet"
    new = ("zero_gradients", "bad_gradients", "first_margin", "best_margin", "survives_8_bits")
    disk.write_table(path, pl.read_parquet(path).drop(new))
    assert [finding.check for finding in doctor.examine(tmp_path, WORK[:1])] == ["evaluation mode"]


def test_with_rounding_the_successes_it_costs_are_probed(tmp_path: Path) -> None:
    audited(net(), tmp_path, quantize=4, threats=("linf:0.08",))
    (probe,) = [probe for probe in log.read_probes(tmp_path) if probe.name == "unrounded"]
    assert probe.attack == "pgd"
    finding = {f.check: f for f in log.read_summary(tmp_path).findings}["8-bit rounding"]
    assert f"{probe.broken} of {probe.cases} that held" in finding.evidence


def test_nothing_is_drawn_from_or_left_in_a_global_state(tmp_path: Path) -> None:
    module = net()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    audited(module, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_distances_that_another_attack_undercuts_are_not_the_smallest(tmp_path: Path) -> None:
    lazy = audited(net(), tmp_path / "lazy", threats=("l2:min",), attacks=("ddn:steps=3,first_norm=6.0",))
    assert ill(lazy) == {"more steps"}
    assert "pgd" in lazy["more steps"].evidence
    sound = audited(net(), tmp_path / "sound", threats=("l2:min", "linf:min"), attacks=("ddn", "fmn"))
    assert ill(sound) == set()
    assert any(probe.cases > 10 for probe in log.read_probes(tmp_path / "sound"))


def test_where_more_steps_gain_all_cases_are_attacked_so_and_the_worst_case_counts(tmp_path: Path) -> None:
    spec = {"attacks": ("pgd:steps=2,step_size=0.02",), "threats": ("linf:0.1",)}
    audited(net(), tmp_path / "short", doctor=False, **spec)
    audited(net(), tmp_path / "cured", **spec)
    audited(net(), tmp_path / "long")
    short, cured, long = (log.read_summary(tmp_path / name) for name in ("short", "cured", "long"))
    assert [result.attack for result in cured.results][1:] == [
        "pgd:steps=8,step_size=0.02 and 2*pgd:steps=2,step_size=0.02"
    ]
    robust = [summary.worst_case[0].robust_accuracy or 0.0 for summary in (short, cured, long)]
    assert robust[0] > robust[1] + 0.2
    assert robust[1] < robust[2] + 0.1

    (tmp_path / "cured" / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cured").rglob("*.parquet")}
    audited(net(), tmp_path / "cured", **spec)
    assert log.read_summary(tmp_path / "cured") == cured
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cured").rglob("*.parquet")} == before


@pytest.mark.parametrize("probed", [True, False], ids=["probed", "not probed"])
def test_a_step_that_is_only_weak_is_not_misled(probed: bool, tmp_path: Path) -> None:
    findings = audited(net(), tmp_path, attacks=("fgsm", "square:steps=500"), threats=("linf:0.1",), doctor=probed)
    assert "attacks without gradients" not in ill(findings), findings["attacks without gradients"].evidence


def test_a_weak_attack_is_not_misled_where_the_others_break_all_that_it_left(tmp_path: Path) -> None:
    weak = "pgd:steps=12,step_size=0.005,random_start=false"
    findings = audited(net(), tmp_path, attacks=(weak, "square:steps=1000"), threats=("linf:0.25",))
    assert "square" in log.read_summary(tmp_path).results[1].attack
    assert log.read_summary(tmp_path).results[1].found == 100
    assert ill(findings) == {"step size"}


def test_every_success_of_a_probe_counts_in_the_worst_case_unless_it_may_be_luck(tmp_path: Path) -> None:
    audited(net(), tmp_path)
    oracle = TorchOracle(net())
    once, often = (probes.View(oracle, oracle, calls=calls, lead=0.0, size=64) for calls in (1, 8))

    def again(probe: str, broken: int, view: probes.View = once, of: str = "pgd") -> list[str]:
        work: list[probes.Job] = [(catalogue.attack(of), Threat.parse("linf:0.1"), "pgd.linf-0.1")]
        told = [log.Probe(probe, "linf:0.1", "it", 16, broken)]
        return [str(attack) for attack, _ in probes.again(tmp_path, work, told, view)]

    assert again("more steps", 1) == ["pgd:steps=160 and 2*pgd"]
    assert again("more steps", 1, often) == []
    assert again("more steps", 0) == []
    assert again("square", 8) == ["square:steps=300"]
    assert again("square", 8, of="square:steps=300") == []
    assert again("square", 1) == []
    assert again("random noise", 8) == []


def test_what_only_attacks_without_gradients_break_is_attacked_so_throughout(tmp_path: Path) -> None:
    """Rounding hides the gradient of every second sample; the run itself follows it alone."""
    findings = audited(net(before=lambda x: (8 * x).round() / 8), tmp_path, attacks=("pgd",), threats=("linf:0.25",))
    summary = log.read_summary(tmp_path)
    assert "attacks without gradients" in ill(findings)
    assert [result.attack for result in summary.results][-1] == "square:steps=300"
    assert summary.worst_case[0].robust_accuracy <= summary.results[-1].robust_accuracy


def test_with_a_limit_on_questions_nobody_says_that_calls_were_averaged(tmp_path: Path) -> None:
    findings = audited(net(after=lambda z: z + torch.randn_like(z)), tmp_path, queries=20)
    assert "mean of" not in findings["randomised output"].remedy
