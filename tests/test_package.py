"""What pyproject.toml promises to those who install the package."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_all_is_every_extra_but_dev() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    (words,) = extras.pop("all")
    assert re.fullmatch(r"inheritune\[(.*)\]", words)[1].split(",") == sorted(extras.keys() - {"dev"})  # type: ignore[index]


def test_classifiers_name_the_pythons_that_are_allowed() -> None:
    lowest, above = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    named = {one.split(" :: ")[-1] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)}
    assert named == {f"3.{minor}" for minor in range(int(lowest), int(above))}
