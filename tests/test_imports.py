"""What an import loads: rooms offer their names lazily, and what needs no torch does not load it."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import inheritune

ALL = list(walk_packages(inheritune.__path__, "inheritune."))
MODULES = [module.name for module in ALL]
ROOMS = [module.name for module in ALL if module.ispkg]
WITHOUT_TORCH = (
    "card", "cli", "corpus", "data", "errors", "experiment.folders", "experiment.methods", "experiment.plan", "experiment.pricing",
    "experiment.rounds", "experiment.store", "experiment.suite", "harness", "inheritance", "lazy", "limits", "losses.base",
    "losses.cross_entropy", "losses.kl", "losses.router", "optimizers.adamw", "optimizers.base", "optimizers.muon",
    "planner.planning", "recipe", "redaction", "report", "results", "runlog", "runtime", "settings", "training.schedule",
    "token_ids",
)  # fmt: skip
"""Rooms and modules of which none loads torch: a command that ends early, or reads results only, starts at once."""


def names_of(part: str) -> list[str]:
    """A room's or module's own name and those of all modules in it; `inheritance.units` looks at models at work."""
    inside = [
        name for name in MODULES if f"{name}.".startswith(f"inheritune.{part}.") and not name.endswith("__main__")
    ]
    return [name for name in inside if not name.startswith("inheritune.inheritance.units.")]


def test_what_needs_no_torch_does_not_load_it() -> None:
    names = [name for part in WITHOUT_TORCH for name in names_of(part)]
    assert len(names) > 150
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n importlib.import_module(name)\n assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_no_name_that_a_room_offers_is_a_submodule() -> None:
    """Importing that submodule would take the name's place. Seen in a process that has used no name yet."""
    code = """
import sys
from importlib import import_module
from pkgutil import iter_modules
for room in sys.argv[1:]:
    package = import_module(room)
    offered = set(dir(package)) - set(vars(package))
    print(room, len(offered), sorted(offered & {module.name for module in iter_modules(package.__path__)}))
"""
    done = subprocess.run([sys.executable, "-c", code, *ROOMS], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.endswith(" []")] == []
    assert sum(int(line.split()[1]) for line in lines) > 200


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_that_a_room_offers_is_there(room: str) -> None:
    package = import_module(room)
    for name in dir(package):
        getattr(package, name)
    with pytest.raises(AttributeError):
        _ = package.nothing_of_this_name


def test_the_public_functions_are_those_that_are_listed() -> None:
    assert set(inheritune.__all__) - {"__version__"} <= set(dir(inheritune))
    assert all(callable(getattr(inheritune, name)) for name in inheritune.__all__ if name != "__version__")
    assert Path(str(inheritune.__file__)).with_name("py.typed").exists()
