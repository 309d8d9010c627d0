"""What the documentation says is there and works."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import sapper
from sapper import catalogue
from sapper.cli import app
from toys import network, samples

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [name for name in app if not name.startswith("-")]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found, f"no section '{heading}' in {page}"
    return found[1]


@pytest.mark.parametrize("name", sorted(catalogue.attacks()))
def test_every_attack_and_option_is_in_the_catalogue(name: str) -> None:
    page, method = section("docs/catalogue.md", name), catalogue.attacks()[name]
    assert method.paper.url in page
    for option in catalogue.options(method):
        assert f"| `{option.name}` |" in page
        assert option.help.partition("\n")[0] in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_page_of_the_command_line(name: str) -> None:
    page = section("docs/cli.md", f"sapper {name}")
    for argument in app[name].assemble_argument_collection():
        assert re.search(rf"^│.*{re.escape(argument.name)}\b.*  \w.*\w", page, re.MULTILINE), argument.name


@pytest.mark.parametrize("goal", ["misclassification", "confidence:", "targeted:every", "source-target:"])
def test_every_goal_is_explained(goal: str) -> None:
    assert goal in text("docs/guide.md")


LINES = [
    line
    for page in PAGES
    for block in blocks(str(page.relative_to(ROOT)), "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("sapper ")
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_shown_is_one(line: str) -> None:
    app.parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)


def test_there_are_command_lines_to_look_at() -> None:
    assert any("audit" in line for line in LINES)
    assert any("train" in line for line in LINES)


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("README.md", "python")
    model = network((1, 4, 4))
    x, y = samples(model, shape=(1, 4, 4))
    names = {"model": model, "x": x, "y": y, "targets": (y + 1) % 4}
    exec(example, names)
    assert "tensor(" in capsys.readouterr().out
    assert names["result"].x_adv.shape == x.shape


def test_the_attack_of_the_guide_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for block in blocks("docs/guide.md", "python") if "(Attack" in block]
    path = tmp_path / "towards_grey.py"
    path.write_text(example)
    spec = importlib.util.spec_from_file_location("towards_grey", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "towards_grey", module)
    spec.loader.exec_module(module)
    model = network()
    x, y = samples(model)
    result = sapper.craft(model, x, y, attack=module.TowardsGrey(), threat="linf:0.4")
    assert catalogue.options(module.TowardsGrey)
    with torch.no_grad():
        assert result.found.equal(model(result.x_adv).argmax(1) != y)
    assert result.found.sum() > 2  # one in ten is wrong from the start


LINKS = [
    (page, target.partition("#")[0])
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    if "://" not in target and not target.startswith("#")
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_every_link_leads_somewhere(page: Path, target: str) -> None:
    if target in ("docs/benchmarks.md", "docs/report.png") and not (ROOT / target).exists():
        pytest.skip("not made yet")
    assert (page.parent / target).exists()
