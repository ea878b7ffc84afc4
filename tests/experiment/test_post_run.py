"""What a run looks at when it has its result: analysis and samples of reference and target."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from inheritune.experiment.look import beginnings, greedy
from transformers import AutoModelForCausalLM

import inheritune
from conftest import read_json, tiny_recipe
from inheritune.data import open_prepared
from inheritune.experiment import run
from inheritune.recipe import Recipe, load_recipe
from inheritune.runlog import Terminal


def by_hand(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest token each time, the whole sequence computed anew."""
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


@pytest.mark.parametrize(("prompt", "count"), [("the small model", 12), ("keeps some of the large", 3)])
def test_continuations_are_the_likeliest_tokens(
    prompt: str, count: int, reference_folder: Path, tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.generation_config.do_sample, model.generation_config.temperature = True, 3.0  # a chat model's habit
    ids = tokenizer(prompt)["input_ids"]
    expected = tokenizer.decode(by_hand(model, ids, count)).removeprefix(tokenizer.decode(ids))
    assert greedy(model, tokenizer, prompt, count, ()) == expected


def test_a_prompt_and_its_continuation_fit_the_positions(reference_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)  # 64 positions
    ids = tokenizer("the small model keeps " * 20)["input_ids"]
    assert len(ids) > 64
    found = greedy(model, tokenizer, "the small model keeps " * 20, 1000, ())
    seen = ids[-32:]
    assert found == tokenizer.decode(by_hand(model, seen, 32)).removeprefix(tokenizer.decode(seen))


def test_prompts_are_beginnings_of_different_documents(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "3K tokens"}, tokenizer, tmp_path / "data")
    prepared = open_prepared(tmp_path / "data")
    found = beginnings(prepared, tokenizer, 3)
    assert len(set(found)) == 3
    files = [file.read_text(encoding="utf-8") for file in text.iterdir()]
    assert all(sum(file.startswith(prompt) for file in files) == 1 for prompt in found)
    # token files that do not say where documents end
    prepared.manifest["end_of_text"] = None
    assert len(set(beginnings(prepared, tokenizer, 3))) == 3


class Heard(Terminal):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def recipe(text: Path, reference_folder: Path, write_recipe: Any) -> Path:
    tree = tiny_recipe(text, reference_folder) | {"grow": None, "controls": []}
    del tree["evaluate"]["prompts"]
    return write_recipe(tree)


def test_samples_of_both_and_other_prompts_when_asked(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(load_recipe(recipe, ["--evaluate.new_tokens=4 tokens"]), folder)
    found = read_json(folder / "samples.json")
    assert [model["name"] for model in found["models"]] == ["reference", "target"]
    assert found["new_tokens"] == 4
    assert all(len(model["continuations"]) == len(found["prompts"]) == 3 for model in found["models"])
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert all(prompt in markdown for prompt in found["prompts"])
    # finished: the same prompts are not continued again, others are
    before = (folder / "samples.json").stat().st_mtime_ns
    run(load_recipe(recipe, ["--evaluate.new_tokens=4 tokens"]), folder)
    assert (folder / "samples.json").stat().st_mtime_ns == before
    changed: Recipe = load_recipe(recipe, ["--evaluate.prompts=[the large]", "--evaluate.new_tokens=4 tokens"])
    run(changed, folder)
    assert read_json(folder / "samples.json")["prompts"] == ["the large"]
    # the text was taken away: said, and all else is shown
    shutil.rmtree(folder / "data")
    heard = Heard()
    run(load_recipe(recipe, ["--evaluate.analyze=true"]), folder, heard)
    assert f"analysis and samples: left out, as {folder / 'data'} is gone" in heard.lines
    assert "the large" in (folder / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_analysis_of_both_goes_on_where_it_stopped(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, spec = tmp_path / "run", load_recipe(recipe, ["--evaluate.analyze=true", "--evaluate.prompts=[]"])
    from inheritune.experiment import look as looking

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(looking, "analyze", killed)
        with pytest.raises(KeyboardInterrupt):
            run(spec, folder)
    assert read_json(folder / "summary.json")["finished"] is True
    assert "How to reproduce it" in (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert not (folder / "analysis").exists()
    summary = run(spec, folder)
    found = read_json(folder / "analysis" / "analysis.json")
    assert [model["layers"] for model in found["models"]] == [4, 1]
    assert found["text"]["sequence_length"] == 16
    assert 30 < found["text"]["sequences"] < 100  # what there is
    assert not (folder / "samples.json").exists()
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "<title>reference\nblock 3: " in page
    assert "<title>target\nblock 0: " in page
    before = (folder / "analysis" / "analysis.json").stat().st_mtime_ns
    assert run(spec, folder) == summary
    assert (folder / "analysis" / "analysis.json").stat().st_mtime_ns == before
