"""What a run makes after its result: analysis and samples of reference and target."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from cut_off import cut_off_at
from inheritune.experiment import run
from inheritune.recipe import Recipe, load_recipe
from inheritune.results import Analysis, RunSummary, Samples

RENDERS = True  # the page is looked at


@pytest.fixture
def recipe(text: Path, reference_folder: Path, write_recipe: Any) -> Path:
    tree = tiny_recipe(text, reference_folder) | {"grow": None, "controls": []}
    del tree["evaluate"]["prompts"]
    return write_recipe(tree)


@pytest.mark.long
def test_samples_of_both_and_other_prompts_when_asked(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    folder = tmp_path / "run"
    run(load_recipe(recipe, ["--evaluate.new_tokens=4 tokens"]), folder)
    found = Samples.read(folder / "samples.json")
    assert [model.name for model in found.models] == ["reference", "target"]
    assert found.new_tokens == 4
    assert all(len(model.continuations) == len(found.prompts) == 3 for model in found.models)
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert all(prompt in markdown for prompt in found.prompts)
    # finished: the same prompts are not continued again, others are
    before = (folder / "samples.json").stat().st_mtime_ns
    run(load_recipe(recipe, ["--evaluate.new_tokens=4 tokens"]), folder)
    assert (folder / "samples.json").stat().st_mtime_ns == before
    changed: Recipe = load_recipe(recipe, ["--evaluate.prompts=[the large]", "--evaluate.new_tokens=4 tokens"])
    run(changed, folder)
    assert Samples.read(folder / "samples.json").prompts == ["the large"]
    # the text was taken away: said, and all else is shown
    shutil.rmtree(folder / "data")
    run(load_recipe(recipe, ["--evaluate.analyze=true"]), folder)
    assert f"analysis and samples: not made, as {folder / 'data'} is gone" in caplog.messages
    assert "the large" in (folder / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_analysis_of_both_goes_on_where_it_stopped(recipe: Path, tmp_path: Path) -> None:
    folder, spec = tmp_path / "run", load_recipe(recipe, ["--evaluate.analyze=true", "--evaluate.prompts=[]"])
    with cut_off_at("analysis: reference and target", KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        run(spec, folder)
    assert RunSummary.read(folder / "summary.json").finished
    assert "How to reproduce it" in (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert not (folder / "analysis").exists()
    summary = run(spec, folder)
    found = Analysis.read(folder / "analysis" / "analysis.json")
    assert [model.layers for model in found.models] == [4, 1]
    assert found.text.sequence_length == 16
    assert 30 < found.text.sequences < 100  # what there is
    assert not (folder / "samples.json").exists()
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "<title>reference\nblock 3: " in page
    assert "<title>target\nblock 0: " in page
    before = (folder / "analysis" / "analysis.json").stat().st_mtime_ns
    assert run(spec, folder) == summary
    assert (folder / "analysis" / "analysis.json").stat().st_mtime_ns == before
