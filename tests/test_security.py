"""Promises of docs/security.md that hold for the program as a whole."""

import ast
import re
from pathlib import Path

import pytest

import inheritune
from inheritune.errors import InputError
from inheritune.recipe import load_recipe

SOURCE = Path(inheritune.__file__).parent
PROJECT = Path(__file__).parent.parent
PICKLED = {"arch/loading.py", "corpus/building/worker.py", "corpus/building/execution.py"}
"""One names an exception, two are the tasks of a preparation (docs/security.md, What is pickled)."""


def test_nothing_is_unpickled_or_evaluated_but_where_the_document_says() -> None:
    for file in SOURCE.rglob("*.py"):
        place = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert place in PICKLED or not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, place
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "torch.load"), (
                    f"{place}: {called}"
                )
                assert not [key for key in node.keywords if key.arg == "shell" and ast.unparse(key.value) != "False"]


def test_a_recipe_makes_plain_values_only(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "recipe.yaml").write_text(f"seed: !!python/object/apply:os.mkdir [{made}]\n")
    with pytest.raises(InputError, match="not YAML"):
        load_recipe(tmp_path / "recipe.yaml")
    assert not made.exists()


def test_every_promise_names_tests_that_are_there() -> None:
    text = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
    promises = text.partition("## Promises")[2].partition("\n## ")[0]
    rows = [row for row in promises.splitlines() if row.startswith("| ") and not row.startswith(("| ---", "| promise"))]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"tests/([\w/]+\.py)::(\w+)", row)
        assert len(named) == row.count("tests/") > 0, row
        for file, test in named:
            content = (PROJECT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(def {test}\(|class {test}:)", content, re.MULTILINE), f"{file}::{test}"
            assert test.startswith(("test_", "Test")), f"{file}::{test} is no test"
