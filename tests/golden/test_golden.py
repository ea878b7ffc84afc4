"""Losses of tiny runs and comparisons are those that are written down: a change of structure changes no result."""

import json
from pathlib import Path

import experiments
import pytest


@pytest.mark.long
def test_every_loss_is_the_one_written_down(tmp_path: Path) -> None:
    experiments.compute(tmp_path)
    found = experiments.losses(experiments.results(tmp_path / "out"))
    expected = json.loads((Path(__file__).parent / "losses.json").read_text(encoding="utf-8"))
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=2e-5)
