import math
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.attack import Cascade
from sapper.attacks.jsma import JSMA
from sapper.attacks.pgd import PGD
from sapper.errors import UsageError
from sapper.perturbation import Perturbation

ATTACKS = catalogue.attacks()
CHANGED = {"int": 7, "float": 0.375, "float | None": 0.125, "bool": None}
"""Another value for an option, by its type; a flag is turned round and of words the other is taken."""

TOY = '''
"""A toy."""

import math
from dataclasses import dataclass

from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.oracle import GradientOracle


@dataclass(frozen=True, kw_only=True)
class Toy(Attack, norms={math.inf}, paper=Paper(title="Toys at Play", authors="T. Oy", year=1999, url="https://toy.org")):
    """Plays."""

    strength: float = 1.0
    """How hard it plays."""

    def limit(self, budget: float) -> int:
        return 2

    def start(self, case: Case, oracle: GradientOracle) -> State:
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:
        logits, pull = oracle.vjp(state.x_adv)
        gradient = pull(case.goal.cotangent("margin", logits))
        x_adv = case.threat.descend(state.x_adv, gradient, self.strength * case.budget)
        return State(x_adv=case.threat.project(x_adv, case.x))
'''


def changed_options(name: str) -> dict:
    changed = {}
    for option in catalogue.options(ATTACKS[name]):
        if option.type.startswith("Literal"):
            words = [word.strip("' ") for word in option.type.removeprefix("Literal[").removesuffix("]").split(",")]
            changed[option.name] = next(word for word in words if word != option.default)
        elif option.type == "str | None":
            changed[option.name] = "changed"
        else:
            changed[option.name] = not option.default if option.type == "bool" else CHANGED[option.type]
    return changed


def test_the_attacks_are_the_files_of_the_folder() -> None:
    folder = Path(sapper.__file__).parent / "attacks"
    assert sorted(ATTACKS) == sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    assert {"jsma", "fgsm", "rand_fgsm", "bim", "pgd", "mifgsm"} <= set(ATTACKS)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_is_written_as_its_name_and_what_was_changed(name: str) -> None:
    assert str(ATTACKS[name]()) == name
    assert catalogue.attack(name) == ATTACKS[name]()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_with_every_option_changed_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    changed = changed_options(name)
    if "file" in changed:  # of what was learned before
        changed["file"] = str(tmp_path / "v.safetensors")
        Perturbation(torch.ones(2), name, "linf:0.1", (0.0, 1.0), 3, 0.5).save(Path(changed["file"]))
    attack = ATTACKS[name](**changed)
    assert all(getattr(attack, option) != ATTACKS[name].__dataclass_fields__[option].default for option in changed)
    assert catalogue.attack(str(attack)) == attack
    for option, value in changed.items():
        one = ATTACKS[name](**{option: value})
        assert str(one).startswith(f"{name}:{option}=")
        assert catalogue.attack(str(one)) == one


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_option_has_help_and_a_default(name: str) -> None:
    options = catalogue.options(ATTACKS[name])
    assert [option.name for option in options] == [field.name for field in fields(ATTACKS[name]) if field.init]
    for option in options:
        assert option.help.endswith(".")
        assert getattr(ATTACKS[name](), option.name) == option.default


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_says_what_it_does_and_what_it_asks_for(name: str) -> None:
    assert catalogue.description(ATTACKS[name]).endswith(".")
    assert catalogue.access(ATTACKS[name]) in ("labels", "scores", "gradients")
    assert catalogue.norms(ATTACKS[name])
    assert set(catalogue.norms(ATTACKS[name])) <= {"l0", "l1", "l2", "linf"}


def test_options_of_jsma() -> None:
    theta = catalogue.options(JSMA)[0]
    assert (theta.name, theta.type, theta.default) == ("theta", "float", 1.0)
    assert theta.help == "Change made to a chosen feature per step, in the data's units; negative to decrease."
    assert catalogue.norms(JSMA) == ["l0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pgd", PGD()),
        (" pgd : steps = 20 , random_start = false ", PGD(steps=20, random_start=False)),
        ("pgd:random_start=False", PGD(random_start=False)),
        ("pgd:step_size=None", PGD(step_size=None)),
        ("pgd:step_size=1e-3", PGD(step_size=0.001)),
        ("jsma:theta=-1,saliency=probabilities", JSMA(theta=-1, saliency="probabilities")),
    ],
)
def test_attacks_are_read(text: str, expected) -> None:
    assert catalogue.attack(text) == expected


def test_restarts_are_a_cascade_of_equals() -> None:
    attack = catalogue.attack("3*pgd:steps=20")
    assert attack == Cascade("3*pgd:steps=20", (PGD(steps=20),) * 3)
    assert catalogue.attack(str(attack)) == attack


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg", r"unknown attack 'pdg': did you mean pgd"),
        ("jmsa", r"did you mean jsma"),
        ("autoattack:steps=3", r"the suite autoattack takes neither options nor restarts"),
        ("2*minimal", r"the suite minimal takes neither"),
        ("carrot", r"unknown attack 'carrot': known: .*bim, .*fgsm, .*jsma"),
        ("", r"unknown attack ''"),
        ("pgd:step=3", r"unknown option of pgd 'step': did you mean steps or step_size"),
        ("fgsm:eps=3", r"unknown option of fgsm 'eps'"),
        ("pgd:steps=many", r"pgd: .*steps.*sapper show pgd"),
        ("pgd:steps", r"pgd: .*steps"),
        ("pgd:steps=3.5", r"pgd: .*steps"),
        ("pgd:steps=0", r"steps above 0"),
        ("pgd:step_size=-1", r"step_size above 0"),
        ("pgd:step_size=nan", r"step_size above 0"),
        ("bim:steps=-3", r"steps above 0"),
        ("mifgsm:decay=-1", r"decay"),
        ("mifgsm:decay=nan", r"decay"),
        ("rand_fgsm:alpha=-0.1", r"alpha"),
        ("rand_fgsm:alpha=nan", r"alpha"),
        ("jsma:theta=0", r"theta"),
        ("jsma:theta=nan", r"theta"),
        ("jsma:theta=inf", r"theta"),
        ("jsma:features=three", r"jsma: .*features"),
        ("jsma:saliency=loss", r"jsma: .*saliency"),
        ("0*pgd", r"number of restarts"),
        ("-1*pgd", r"number of restarts"),
        ("x*pgd", r"number of restarts"),
        ("2*3*pgd", r"number of restarts"),
        ("²*pgd", r"number of restarts"),
        ("*pgd", r"number of restarts|expected"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalogue.attack(text)


def test_a_field_without_help_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "helpless.py").write_text(TOY.replace('    """How hard it plays."""\n', ""))
    monkeypatch.syspath_prepend(tmp_path)
    from importlib import import_module

    with pytest.raises(UsageError, match="no help under its option strength"):
        catalogue.options(import_module("helpless").Toy)


@pytest.fixture(scope="module")
def package_with_a_toy(tmp_path_factory) -> Path:
    """A copy of the package with one file more."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(sapper.__file__).parent, folder / "sapper", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sapper" / "attacks" / "toy.py").write_text(TOY)
    return folder


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_file_more_is_found_everywhere(package_with_a_toy: Path) -> None:
    script = """
import torch, sapper
from sapper import catalogue
toy = catalogue.attacks()["toy"]
print([(o.name, o.type, o.default, o.help) for o in catalogue.options(toy)])
print(catalogue.description(toy), catalogue.access(toy), catalogue.norms(toy))
print(catalogue.attack("2*toy:strength=0.5"), catalogue.papers([catalogue.attack("toy")])[0][1].key)
x, y = torch.tensor([[0.2, 0.2]]), torch.tensor([1])
print(sapper.craft(torch.nn.Identity(), x, y, attack="toy", threat="linf:0.1").found.tolist())
"""
    assert python(package_with_a_toy, "-c", script).splitlines() == [
        "[('strength', 'float', 1.0, 'How hard it plays.')]",
        "Plays. gradients ['linf']",
        "2*toy:strength=0.5 oy1999toys",
        "[True]",
    ]


def test_one_file_more_is_held_to_the_contract(package_with_a_toy: Path) -> None:
    output = python(
        package_with_a_toy, "-m", "pytest", "tests/attacks/test_contract.py", "-k", "toy", "-p", "no:cacheprovider"
    )
    passed = int(output.rsplit(" passed", 1)[0].split()[-1]) if " passed" in output else output.count(".")
    assert passed >= 10


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "plugged_toy.py").write_text(TOY)
    about = tmp_path / "plugged_toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sapper.attacks]\nplugged_toy = plugged_toy\n")
    assert "plugged_toy" not in catalogue.attacks()
    monkeypatch.syspath_prepend(tmp_path)
    assert set(catalogue.attacks()) == {*ATTACKS, "plugged_toy"}
    attack = catalogue.attack("plugged_toy:strength=0.25")
    assert str(attack) == "plugged_toy:strength=0.25"
    assert type(attack).norms == {math.inf}


def test_two_attacks_in_one_file_are_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "twice.py").write_text(TOY + TOY.replace("class Toy", "class Other"))
    about = tmp_path / "twice-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: twice\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sapper.attacks]\ntwice = twice\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"expected one Attack in twice, found 2"):
        catalogue.attacks()


def test_a_plugin_that_cannot_be_imported_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = EntryPoint(name="broken", value="no_such_module_at_all", group="sapper.attacks")
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [broken])
    with pytest.warns(UserWarning, match="no_such_module_at_all"):
        assert "pgd" in catalogue.attacks()
