"""What an import loads: rooms offer their names lazily, and what needs no torch does not load it."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, walk_packages

import pytest

import inheritune

ALL = list(walk_packages(inheritune.__path__, "inheritune."))
MODULES = [module.name for module in ALL]
WITHOUT_TORCH = (
    "card", "cli", "corpus", "data", "errors", "experiment.folders", "experiment.methods", "experiment.plan", "experiment.pricing",
    "experiment.rounds", "experiment.store", "experiment.suite", "harness", "inheritance", "lazy", "limits", "losses.base",
    "losses.cross_entropy", "losses.kl", "losses.router", "optimizers.adamw", "optimizers.base", "optimizers.muon",
    "planner.planning", "recipe", "redaction", "report", "results", "runlog", "runtime", "settings", "training.schedule",
    "token_ids",
)  # fmt: skip
"""Rooms and modules of which none loads torch: a command that ends early, or reads results only, starts at once."""


def names_of(part: str) -> list[str]:
    """A room's or module's own name and those of all modules in it."""
    return [name for name in MODULES if f"{name}.".startswith(f"inheritune.{part}.") and not name.endswith("__main__")]


def test_what_needs_no_torch_does_not_load_it() -> None:
    names = [name for part in WITHOUT_TORCH for name in names_of(part)]
    assert len(names) > 150
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n importlib.import_module(name)\n assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("room", [module.name for module in ALL if module.ispkg])
def test_a_room_offers_its_names_when_they_are_used(room: str) -> None:
    package = import_module(room)
    own = {module.name for module in iter_modules(package.__path__)}
    offered = set(dir(package)) - set(vars(package))
    assert not offered & own, "a submodule's import would take the place of the name"
    for name in offered:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        _ = package.nothing_of_this_name


def test_the_public_functions_are_those_that_are_listed() -> None:
    assert set(inheritune.__all__) - {"__version__"} <= set(dir(inheritune))
    assert all(callable(getattr(inheritune, name)) for name in inheritune.__all__ if name != "__version__")
    assert Path(str(inheritune.__file__)).with_name("py.typed").exists()
