"""Sapper: a workbench for the robustness of machine-learning models.

`sapper.craft(model, x, y, attack="jsma", threat="l0:14.5%")` attacks a `torch.nn.Module`; the command line does the rest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapper.ensembles import ensemble
    from sapper.foreign import Foreign
    from sapper.learning import fit
    from sapper.scheduler import Crafted, craft
    from sapper.theft import Stolen, steal

_HOMES = {
    "Crafted": "scheduler",
    "Foreign": "foreign",
    "Stolen": "theft",
    "craft": "scheduler",
    "ensemble": "ensembles",
    "fit": "learning",
    "steal": "theft",
}

__version__ = "0.1.0"
__all__ = ["Crafted", "Foreign", "Stolen", "__version__", "craft", "ensemble", "fit", "steal"]


def __getattr__(name: str) -> Any:
    """Imports torch only when it is needed, so that the command line answers at once."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sapper.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sapper' has no attribute '{name}'")
