"""What the doctor's findings mean, and how they are told. Imports no torch."""

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from sapper.log import Finding

MEANINGS = {
    "evaluation mode": "Dropout and batch normalisation act differently in training; an audit is of the model as deployed.",
    "randomised output": "A model that draws lots gives attacks a noisy gradient and judges them by luck.",
    "rows are independent": "Where the answer to a sample depends on its batch, so does every figure.",
    "outputs are logits": "Probabilities and saturated logits round the loss's gradient to 0; flat logits turn it aside.",
    "gradients": "Gradient attacks need the slope of the outputs; rounding, detaching and saturation hide it.",
    "input range": "Budgets are in the data's units; in other units they are another threat.",
    "clean accuracy": "A model that is shown its data wrongly is not the model that was meant.",
    "access": "What a model answers with decides which attacks there are; who steals a copy of it has its gradients too.",
    "gradients along the attacks": "Without a gradient an attack stays where it is; what it leaves unbroken was not tried.",
    "loss along the attacks": "An attack that works gets nearer to its goal even where it does not reach it.",
    "step size": "Steps that do not add up to the budget never come to its border; far larger ones only jump across.",
    "largest budget": "When every input may be submitted nothing is robust: what holds there shows that the attack failed.",
    "more steps": "An attack that is given more time should gain nothing, else the figure is the time's, not the model's.",
    "attacks without gradients": "Who sees less should not find more; if he does, the gradients mislead.",
    "transferred samples": "What fools a stand-in trained in seconds should not get past an attack on the model itself.",
    "transfer": "What fools one model often fools another; these figures are of an attacker who knows a substitute only.",
    "8-bit rounding": "Pictures are stored in 256 levels; a success between them may not survive.",
    "queries": "Every row that an endpoint is asked is paid for once; the ledger answers when it is asked again.",
    "cases that could not be run": "They count as broken, so the figure is too low, and says nothing of the model.",
}
"""What each check is about."""
_ORDER = {"warning": 0, "note": 1, "ok": 2}


class Explained(Finding, frozen=True):
    """A finding and what its check is about."""

    meaning: str = ""


def explain(findings: list[Finding]) -> list[Explained]:
    """The findings with their meaning, the gravest first."""
    explained = [Explained(**msgspec.structs.asdict(f), meaning=MEANINGS.get(f.check, "")) for f in findings]
    return sorted(explained, key=lambda finding: _ORDER.get(finding.verdict, 1))


def print_findings(findings: list[Explained], printer: Console) -> None:
    """What is wrong or doubtful at length, what is in order in a line."""
    for finding in findings:
        about = f": {finding.evidence}" if finding.verdict == "ok" else ""
        printer.print(Text.assemble((f"{finding.verdict}: {finding.check}", "bold"), about))
        parts = ("means", finding.meaning), ("seen", finding.evidence), ("do", finding.remedy)
        for name, part in parts:
            if finding.verdict != "ok" and part:
                printer.print(Padding(Text(f"{name}: {part.rstrip('.')}."), (0, 0, 0, 4)))
    warnings = sum(finding.verdict == "warning" for finding in findings)
    printer.print(
        f"{warnings} of {len(findings)} checks warn: mend their causes before you believe the figures."
        if warnings
        else f"None of {len(findings)} checks warns: nothing speaks against the figures.",
        highlight=False,
    )
