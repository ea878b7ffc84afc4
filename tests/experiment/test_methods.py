"""Methods: the blocks and stages that each asks for, words that mean the same, a method in a file of its own."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import inheritune
from inheritune.errors import InputError
from inheritune.experiment.methods import METHODS
from inheritune.experiment.methods.baselines import LazyMethod, distilbert_blocks
from inheritune.experiment.stage import Stage
from inheritune.experiment.suite import ArmSettings
from inheritune.recipe import FIRST_HALF, HALF
from inheritune.results import ArmResult
from tiny_suites import make_reference, tiny_suite


def arm(start: Any, name: str = "it", **more: Any) -> ArmSettings:
    return ArmSettings.model_validate({"name": name, "start": start, **more})


def blocks(start: Any, total: int, default: int = 4) -> Any:
    method = arm(start).start
    return list(method.stages(method.depth(default, total), total)[-1].blocks)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("inherit", [0, 1, 2, 3]),
        ({"kind": "inherit", "layers": 3, "choose": "middle"}, [2, 3, 4]),
        ({"kind": "inherit", "layers": [0, 2, 7]}, [0, 2, 7]),
        ({"kind": "inherit", "layers": "half", "choose": "every"}, [0, 2, 4, 6]),
        ("lazy", [4, 5, 6, 7]),
        ("hybrid-stacking", [0, 1, 0, 1]),
        ("half-width", list(range(8))),
        ("reference", list(range(8))),
        ("distilbert", [0, 2, 4, 6]),
        ({"kind": "distilbert", "layers": 6}, [0, 2, 4, 6, 6, 7]),
        ({"kind": "random", "layers": 10 // 2}, [0, 1, 2, 3, 4]),
    ],
)
def test_the_blocks_of_a_method(start: Any, expected: list[int]) -> None:
    assert blocks(start, 8) == expected


def test_what_comes_along() -> None:
    for start, submodules, widths in (
        ("inherit", "all", {}), ("random", "none", {}), ("half-width", "all", HALF), ("lazy", "all", {}),
    ):  # fmt: skip
        stage = arm(start).start.stages(4, 8)[-1]
        assert ("none" if stage.weights == "random" else stage.submodules, stage.widths.widths) == (submodules, widths)
    assert str(arm({"kind": "inherit", "refit": "8K tokens"}).start.stages(4, 8)[-1].refit) == "8K tokens"
    first, second = arm("stacking").start.stages(6, 8)
    assert (first.weights, first.blocks, first.share) == ("random", [0, 1, 2], 0.5)
    assert (second.weights, second.blocks, second.after_previous) == ("inherit", [0, 1, 2, 0, 1, 2], True)


def test_methods_register_themselves() -> None:
    assert sorted(METHODS) == [
        "distilbert", "growth", "half-width", "hybrid-stacking", "inherit", "lazy", "random", "reference",
        "stacking", "staged",
    ]  # fmt: skip
    for kind, method in METHODS.items():
        assert method().kind == kind
        assert method.__doc__


def test_the_distilbert_style_blocks_of_the_paper() -> None:
    """Figure 17: 16 of 24 blocks, every other one and then 18 to 21."""
    assert distilbert_blocks(16, 24) == [*range(0, 24, 2), 18, 19, 20, 21]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"kind": "inherit", "layers": 9}, "9 blocks asked for, the reference has 8"),
        ({"kind": "lazy", "layers": 9}, "9 blocks asked for"),
        ({"kind": "stacking", "layers": 5}, "give an even number"),
        ({"kind": "hybrid-stacking", "layers": 5}, "give an even number"),
        ({"kind": "stacking", "layers": 18}, "give at most 16"),
    ],
)
def test_methods_that_cannot_be(start: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        blocks(start, 8)


def test_stages_of_a_removal_are_nested() -> None:
    method = arm({"kind": "staged", "layers": 3, "through": ["all", 5], "share": 0.4}).start
    dropped = [4, 1, 6, 2, 5, 0, 3, 7]
    stages = method.stages(method.depth(4, 8), 8, dropped)
    assert [list(one.origins or ()) for one in stages] == [list(range(8)), [0, 2, 3, 5, 7], [0, 3, 7]]
    assert [list(one.blocks) for one in stages] == [list(range(8)), [0, 2, 3, 5, 7], [0, 2, 4]]
    assert [one.after_previous for one in stages] == [False, True, True]
    assert [one.share for one in stages] == pytest.approx([0.2, 0.2, 0.6])
    assert all(one.is_provisional for one in method.stages(3, 8))
    assert not any(one.fading for one in stages)
    annealed = arm({"kind": "staged", "layers": 3, "through": ["all", 5], "anneal": True}).start.stages(3, 8, dropped)
    assert [list(one.fading) for one in annealed] == [[1, 4, 6], [1, 3], []]
    listed = arm({"kind": "staged", "layers": "0-1,7", "through": ["0-3,7"]}).start
    assert [list(one.blocks) for one in listed.stages(listed.depth(4, 8), 8)] == [[0, 1, 2, 3, 7], [0, 1, 4]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 4, "through": [4]}, "give falling numbers"),
        ({"layers": 4, "through": [5, 6]}, "give falling numbers"),
        ({"layers": [0, 1], "through": [[0, 2, 3]]}, "of nested blocks"),
        ({"layers": 4, "through": [9]}, "9 blocks asked for"),
        ({"layers": 4, "through": [[0, 1, 2, 3, 4]]}, "give numbers of blocks"),
        ({"layers": [0, 1], "choose": "auto"}, "does not go with stages"),
        ({"choose": "stacked"}, "does not go with stages"),
    ],
)
def test_stages_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, ValueError), match=words):
        method = arm({"kind": "staged", **settings}).start
        method.stages(method.depth(4, 8), 8)


def test_a_refit_needs_all_weights() -> None:
    with pytest.raises(ValueError, match="refit goes with submodules: all"):
        arm({"kind": "inherit", "refit": "8K tokens", "submodules": ["mlp"]})


def described(start: Any, total: int = 8, default: int | float = 0.5) -> dict[str, Any]:
    method = arm(start).start
    return method.describe(method.depth(default, total), total)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lazy", {"kind": "inherit", "layers": [4, 5, 6, 7]}),
        ("lazy", {"kind": "inherit", "choose": "last"}),
        ("inherit", {"kind": "inherit", "layers": "0-3"}),
        ("inherit", {"kind": "inherit", "layers": "half"}),
        ("distilbert", {"kind": "inherit", "choose": "every"}),
        ("hybrid-stacking", {"kind": "inherit", "choose": "stacked"}),
        ("half-width", {"kind": "inherit", "layers": "all", **FIRST_HALF}),
        ("random", {"kind": "inherit", "submodules": "none"}),
        ("stacking", {"kind": "stacking", "layers": 4}),
        ("growth", {"kind": "growth", "layers": 0.5, "choose": "first"}),
        ({"kind": "inherit", "choose": "auto"}, {"kind": "inherit", "choose": "auto", "layers": 4}),
        ({"kind": "lazy", "of": "x"}, {"kind": "inherit", "choose": "last", "of": "x"}),
    ],
)
def test_what_starts_the_same_is_described_the_same(one: Any, other: Any) -> None:
    assert described(one) == described(other)


def test_what_starts_otherwise_is_described_otherwise() -> None:
    """Each is the only one of its kind: rounds, stages and measured choices are no plain blocks."""
    starts: list[Any] = [
        "inherit", "lazy", "distilbert", "hybrid-stacking", "half-width", "random", "reference", "stacking", "growth",
        {"kind": "inherit", "layers": 3}, {"kind": "inherit", "layers": [0, 1, 2, 4]}, {"kind": "inherit", "layers": "all"},
        {"kind": "inherit", "submodules": ["attention"]}, {"kind": "inherit", "choose": "auto"},
        {"kind": "inherit", "choose": "rank"}, {"kind": "inherit", "of": "x"}, {"kind": "random", **HALF},
        {"kind": "random", "layers": 3}, {"kind": "stacking", "first_stage": 0.25}, {"kind": "stacking", "of": "small"},
        {"kind": "growth", "layers": 3}, {"kind": "growth", "grow": {"max_layers": 4}},
    ]  # fmt: skip
    found = [described(start, 2, 4) if "small" in str(start) else described(start) for start in starts]
    assert all(one not in found[:place] for place, one in enumerate(found))


def test_stages_of_a_new_method_are_not_taken_for_plain_blocks() -> None:
    """A method need not say that it is none of the others: its stages show it."""

    class Twice(LazyMethod):
        def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
            (stage,) = super().stages(depth, total)
            return [replace(stage, folder="first", share=0.5), replace(stage, insert_trained=True, share=0.5)]

    class Drawn(LazyMethod):
        def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
            return [replace(stage, weights="random") for stage in super().stages(depth, total)]

    class Renamed(LazyMethod):
        pass

    plain = described("lazy")
    assert Twice().describe(4, 8) != plain
    assert Drawn().describe(4, 8) != plain
    assert Renamed().describe(4, 8) == plain


OWN = '''
"""The first and the last block."""

from collections.abc import Sequence
from typing import Literal

from typing_extensions import override

from inheritune.recipe import FIRST_HALF, HALF
from inheritune.experiment.methods.base import Method, Stage


class BothEndsMethod(Method):
    """The first and the last block of the reference."""

    kind: Literal["both-ends"] = "both-ends"

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage([0, total - 1])]
'''


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package and one more file in experiment/methods/."""
    folder = tmp_path_factory.mktemp("extended")
    package = Path(inheritune.__file__).parent
    copied = shutil.copytree(package, folder / "inheritune", ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "experiment" / "methods" / "both_ends.py").write_text(OWN, encoding="utf-8")
    return folder


def python(*words: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A new Python that imports the package of the folder `cwd`."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)


def test_a_file_in_methods_is_a_method(extended: Path) -> None:
    code = "from inheritune.experiment import Suite; from inheritune.cli.description import describe\n"
    code += "print(describe('suite'))\n"
    code += "Suite(reference='x', data={'prepared': 'x'}, train={'length': '1 steps'}, arms=[{'name': 'it', 'start': 'both-end'}])"
    done = python("-c", code, cwd=extended)
    assert "## `arms.start: kind: both-ends`\n\nThe first and the last block of the reference.\n" in done.stdout
    assert (
        "there is no start 'both-end'; did you mean both-ends? legal are both-ends, distilbert, growth" in done.stderr
    )


@pytest.mark.long
def test_a_method_in_a_file_of_its_own_is_planned_and_trained(extended: Path, text: Path, tokenizer: Any) -> None:
    reference = make_reference(extended / "model", tokenizer)
    suite = tiny_suite(text, reference, [{"name": "ends", "start": "both-ends"}, {"name": "random", "start": "random"}])
    (extended / "suite.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    planned = python("-m", "inheritune", "plan", "suite.yaml", "--device", "CPU", cwd=extended)
    assert planned.returncode == 0, planned.stderr
    done = python("-m", "inheritune", "compare", "suite.yaml", "--out", "out", cwd=extended)
    assert done.returncode == 0, done.stderr
    result = ArmResult.read(extended / "out" / "arms" / "ends" / "seed-1" / "result.json")
    assert (result.blocks, result.layers, result.steps) == ([0, 5], 2, 8)
