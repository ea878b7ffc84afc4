"""A whole recipe on a tiny model: what it leaves, that it goes on, what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from conftest import read_json, tiny_recipe, weights
from inheritune import runtime
from inheritune.data import Sequences, open_prepared
from inheritune.errors import InputError
from inheritune.evaluation import judge
from inheritune.experiment import run
from inheritune.recipe import FIRST_HALF, load_recipe
from inheritune.report import verdict
from inheritune.results import RunSummary
from inheritune.runlog import read_metrics

RENDERS = True  # pages have their figures


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The recipe and the folder of a run that made its own reference."""
    import yaml

    place = tmp_path_factory.mktemp("run")
    recipe = place / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(text)), encoding="utf-8")
    run(load_recipe(recipe), place / "out")
    return recipe, place / "out"


def test_summary_has_the_keys_that_the_design_names(finished: tuple[Path, Path]) -> None:
    summary = read_json(finished[1] / "summary.json")
    assert {"layers", "parameters", "val_loss"} <= summary["reference"].keys()
    keys = {"layers", "parameters", "tokens", "steps", "flops", "val_loss", "val_loss_se", "gap", "gap_se", "gap_upper"}
    keys |= {"tokens_per_second", "model", "decision"}
    assert summary["rounds"]
    for found in summary["rounds"]:
        assert keys <= found.keys()
    assert [control["name"] for control in summary["controls"]] == ["random"]
    assert keys <= summary["controls"][0].keys()
    assert {"decision", "layers", "parameters", "val_loss", "model"} <= summary["result"].keys()
    assert summary["wall_seconds"] > 0
    assert summary["finished"] is True


def test_figures_agree_with_each_other(finished: tuple[Path, Path]) -> None:
    summary = RunSummary.read(finished[1] / "summary.json")
    for found in [*summary.rounds, *summary.controls]:
        assert found.tokens == found.steps * 4 * 16
        assert found.gap == pytest.approx(found.val_loss - summary.reference.val_loss, abs=1e-9)
        assert found.gap_upper is not None
        within = "matched" if found.gap_upper <= summary.tolerance else "undecided"
        assert found.decision == ("behind" if found.gap > summary.tolerance else within)
    assert [found.layers for found in summary.rounds] == list(range(1, len(summary.rounds) + 1))
    best = next(found for found in summary.rounds if found.model == summary.result.model)
    assert best.val_loss == summary.result.val_loss
    assert summary.controls[0].parameters == best.parameters
    assert summary.controls[0].tokens == best.tokens


def test_the_model_loads_with_plain_transformers_and_has_the_recorded_loss(finished: tuple[Path, Path]) -> None:
    summary = RunSummary.read(finished[1] / "summary.json")
    folder = finished[1] / summary.result.model
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.num_hidden_layers == summary.result.layers
    found = inheritune.evaluate(model, finished[1] / "data", sequence_length=16, device="cpu", micro_batch=2).to_json()
    assert found["models"][0]["val_loss"] == pytest.approx(summary.result.val_loss, abs=1e-6)
    ids = model.generate(**tokenizer("the small", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(ids[0]).startswith("the small")


def test_each_round_starts_from_the_references_own_blocks(finished: tuple[Path, Path], tmp_path: Path) -> None:
    # the loss before the first step is that of the blocks as inherited, whatever the round before has learnt
    reference = AutoModelForCausalLM.from_pretrained(finished[1] / "reference" / "model")
    for number, found in enumerate(RunSummary.read(finished[1] / "summary.json").rounds, 1):
        target = inheritune.inherit(reference, number)
        first_four = Sequences(open_prepared(finished[1] / "data").tokens("validation").read(0, 65), 16, "x")
        loss = judge(target, first_four, runtime.start("cpu"), micro_batch=2).loss.value
        first = read_metrics((finished[1] / found.model).parent / "metrics.jsonl")[0]
        assert first["val_loss"] == pytest.approx(loss, abs=1e-6)


def test_run_again_it_is_done_at_once_and_changes_nothing(finished: tuple[Path, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished[1].rglob("*.safetensors")}
    summary = run(load_recipe(finished[0]), finished[1])
    assert summary.to_json() == read_json(finished[1] / "summary.json")
    assert before == {path: path.stat().st_mtime_ns for path in finished[1].rglob("*.safetensors")}


def test_results_of_an_earlier_version_are_judged_again_and_nothing_is_trained(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """Version 1 had the losses of sequences. A finished run's summary is refused with what to do about it."""
    old = Path(shutil.copytree(finished[1], tmp_path / "old"))
    for file in old.rglob("evaluation.json"):
        tree = read_json(file)
        kept = {key: value for key, value in tree.items() if not key.startswith("cluster_") and key != "version"}
        file.write_text(json.dumps(kept | {"matched": False, "sequence_losses": [3.0, 4.0]}))
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*.safetensors")}
    summary = read_json(old / "summary.json") | {"version": 1}
    (old / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(
        InputError, match=r"summary\.json: is of version 1, not 2; use the inheritune that wrote it, or delete"
    ):
        run(load_recipe(finished[0]), old)
    (old / "summary.json").unlink()
    again = run(load_recipe(finished[0]), old).to_json()
    assert again["rounds"] == summary["rounds"]
    assert again["reference"] == summary["reference"]
    assert before == {path: path.stat().st_mtime_ns for path in old.rglob("*.safetensors")}


def test_the_page_needs_nothing_else(finished: tuple[Path, Path]) -> None:
    page = (finished[1] / "report" / "index.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "control: random" in page
    assert not re.search(r'(src|href)\s*=\s*"(?!#)', page.replace("xlink:href", "href").replace('href="#', 'href="#'))
    assert not re.search(r"@import|url\((?!#)", page)
    assert (finished[1] / "report" / "report.md").read_text(encoding="utf-8").startswith("# Inheritune")
    assert (finished[1] / "report" / "figures" / "loss-by-tokens.png").read_bytes()[:4] == b"\x89PNG"


def test_no_validation_text_in_training(finished: tuple[Path, Path]) -> None:
    from inheritune.data import open_prepared

    data = open_prepared(finished[1] / "data")
    train, validation = (data.tokens(split).read().tolist() for split in ("train", "validation"))
    eos = data.manifest["end_of_text"]

    def documents(row: list[int]) -> set[str]:
        return set(" ".join(map(str, row)).split(f" {eos} "))

    assert not documents(train) & documents(validation)


def test_controls_may_be_dropped_and_added(finished: tuple[Path, Path]) -> None:
    """The rounds stay as they are, and a control that is asked for again is not trained again."""
    recipe, out = finished
    before = RunSummary.read(out / "summary.json")
    trained = weights(out / before.controls[0].model)
    none = run(load_recipe(recipe, ["--controls=[]"]), out)
    assert (none.finished, none.controls, none.rounds) == (True, [], before.rounds)
    assert "control: random" not in (out / "report" / "index.html").read_text(encoding="utf-8")
    both = run(load_recipe(recipe, ["--controls=[reference-continued, random]"]), out)
    assert [control.name for control in both.controls] == ["reference-continued", "random"]
    assert both.controls[1] == before.controls[0]
    again = run(load_recipe(recipe), out)
    assert (again.rounds, again.controls, again.result) == (before.rounds, before.controls, before.result)
    assert weights(out / before.controls[0].model) == trained


def test_another_recipe_is_refused_and_names_the_key(finished: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"belongs to another recipe: train\.length \(10 steps there, 11 steps here\)"):
        run(load_recipe(finished[0], ["--train.length=11 steps"]), finished[1])
    # how often states are saved decides nothing, so it may change
    run(load_recipe(finished[0], ["--train.checkpoint.every=5 steps"]), finished[1])
    run(load_recipe(finished[0]), finished[1])


def test_a_folder_that_is_not_a_run_is_left_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not a run's folder"):
        run(load_recipe(finished[0]), tmp_path)


def test_a_damaged_recipe_in_the_folder_is_named(finished: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("{")
    with pytest.raises(InputError, match=r"run/recipe\.yaml: is damaged, .*; give another --out"):
        run(load_recipe(finished[0]), tmp_path / "run")


def test_two_processes_do_not_share_a_folder(finished: tuple[Path, Path], tmp_path: Path) -> None:
    import fcntl

    with (finished[1] / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is at work in it"):
            run(load_recipe(finished[0]), finished[1])


@pytest.mark.long
def test_a_given_reference_with_all_controls_and_prepared_data(
    write_recipe: Any, text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path
) -> None:
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    tree = tiny_recipe(text, reference_folder)
    tree["data"] = {"prepared": str(tmp_path / "data")}
    tree["controls"] = ["random", "reference-continued"]
    tree["inherit"] = {"layers": [0, 3]}
    tree["grow"] = None
    summary = run(load_recipe(write_recipe(tree)), tmp_path / "out")
    assert summary.rounds[0].blocks == [0, 3]
    assert [control.layers for control in summary.controls] == [2, 4]
    continued = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / summary.controls[1].model)
    original = AutoModelForCausalLM.from_pretrained(reference_folder)
    assert not torch.equal(continued.lm_head.weight, original.lm_head.weight)
    assert weights(reference_folder)  # untouched and whole
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["lineage"]["reference"] == str(reference_folder)


def test_python_functions_do_the_stages(text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path) -> None:
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    target = inheritune.inherit(reference_folder, "half", out=tmp_path / "half")
    assert target.config.num_hidden_layers == 2
    settings = {"length": "3 steps", "batch": "2 sequences", "sequence_length": 16}
    trained, found = inheritune.train(tmp_path / "half", tmp_path / "data", tmp_path / "trained", settings=settings)
    assert found.steps == 3
    assert not torch.equal(trained.lm_head.weight, target.lm_head.weight)
    again, same = inheritune.train(tmp_path / "half", tmp_path / "data", tmp_path / "trained", settings=settings)
    assert same == found
    assert torch.equal(again.lm_head.weight, trained.lm_head.weight)
    with pytest.raises(InputError, match="belongs to another training"):
        inheritune.train(tmp_path / "half", tmp_path / "data", tmp_path / "trained", settings=settings, seed=2)
    model, rounds = inheritune.grow(
        reference_folder, tmp_path / "data", tmp_path / "grown", train=settings, inherit={"layers": 1, "choose": "first"},
        rounds={"by": 2, "until": "max_layers", "max_layers": 3},
    )  # fmt: skip
    assert [found.layers for found in rounds] == [1, 3]
    assert model.config.num_hidden_layers in (1, 3)


@pytest.mark.long
def test_a_starter_recipe_is_legal_and_runs(reference_folder: Path, text: Path, tmp_path: Path) -> None:
    from inheritune.experiment import starter_recipe

    content = starter_recipe(str(reference_folder))
    path = tmp_path / "starter.yaml"
    path.write_text(content.replace("text/ ", f"{text} "), encoding="utf-8")
    small = [
        "--data.validation=600 tokens",
        "--train.batch=2 sequences",
        "--train.micro_batch=2",
        "--grow=null",
        "--evaluate.analyze=false",
    ]
    recipe = load_recipe(path, [*small, "--train.length=2 steps", "--controls=[]", "--train.schedule.warm_up=1 steps"])
    assert recipe.inherit.layers == 2
    assert recipe.train.sequence_length == 64
    summary = run(recipe, tmp_path / "out")
    assert summary.result.layers == 2
    shutil.rmtree(tmp_path / "out")


def test_a_starter_recipe_divides_few_files_into_documents(
    reference_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """A file is one document, and none would be left to train on."""
    place = tmp_path / "texts"
    place.mkdir()
    for number in range(4):
        (place / f"{number}.txt").write_text(" ".join(f"word{number}{n * n}" for n in range(4000)), encoding="utf-8")
        if number not in (0, 3):
            continue
        path = tmp_path / f"{number}.yaml"
        path.write_text(inheritune.experiment.starter_recipe(str(reference_folder), str(place)), encoding="utf-8")
        assert f"{number + 1} document" in path.read_text().replace("the file is 1", "1")
        recipe = load_recipe(path)
        prepared = inheritune.prepare(recipe.data, tokenizer, tmp_path / f"data{number}")
        assert len(prepared.tokens("validation")) >= recipe.data.validation.count
        assert len(prepared.tokens("train")) > 4 * recipe.data.validation.count
    for number in range(300):
        (place / f"{number}.txt").write_text(f"a text of its own, {number}", encoding="utf-8")
    assert "document:" not in inheritune.experiment.starter_recipe(str(reference_folder), str(place))


@pytest.mark.long
def test_a_silent_round_begins_where_the_round_before_ended(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["grow"] = {"by": 1, "max_layers": 2, "until": "max_layers", "start": "trained", "function_preserving": True}
    summary = run(load_recipe(write_recipe(tree)), tmp_path / "out")
    first, second = summary.rounds
    ended, begun = (
        read_metrics((tmp_path / "out" / found.model).parent / "metrics.jsonl") for found in (first, second)
    )
    last = [entry["val_loss"] for entry in ended if entry.get("val_loss") is not None][-1]
    assert begun[0]["val_loss"] == pytest.approx(last, abs=1e-6)
    # the budget of a round that goes on is that of both, and so is the control's
    assert second.tokens_before == first.tokens
    assert second.flops_before == first.flops
    best = max((second, first), key=lambda found: found.model == summary.result.model)
    assert summary.controls[0].tokens == best.tokens + (best.tokens_before or 0)
    notes = read_json((tmp_path / "out" / second.model).parent / "inherited.json")
    assert notes["blocks_from_round"] == [0]
    assert notes["function_preserving"] is True


def test_rounds_that_cannot_go_on_are_refused_before_anything_is_done(
    text: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = tiny_recipe(text)
    tree["reference"]["train"]["model"]["n_layer"] = 5
    tree["inherit"] = {"layers": 2, "choose": "every"}
    tree["grow"] = {"by": 1, "max_layers": 3, "start": "trained"}
    words = r"grow\.start: a round of blocks \[0, 1, 3\] cannot continue one of \[0, 2\]"
    with pytest.raises(InputError, match=words):
        run(load_recipe(write_recipe(tree)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_half_width_and_submodules_run(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["inherit"] = {"layers": 2, **FIRST_HALF, "submodules": ["attention", "mlp"]}
    del tree["grow"]
    summary = run(load_recipe(write_recipe(tree)), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / summary.result.model)
    assert (model.config.n_head, model.config.n_embd, model.config.n_layer) == (1, 8, 2)
    assert summary.controls[0].parameters == summary.result.parameters


@pytest.mark.long
def test_a_run_that_is_behind_says_what_would_match_and_where_random_weights_were_behind(
    text: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = tiny_recipe(text)
    tree["reference"]["train"] |= {"length": "300 steps", "optimizer": {"learning_rate": 0.01}}
    tree["inherit"] = {"layers": 1, "choose": "last"}
    tree["train"] |= {"length": "40 steps", "schedule": {"name": "constant"}}
    tree["evaluate"] |= {"every": "2 steps", "tolerance": 0.0}
    summary = run(load_recipe(write_recipe(tree | {"grow": None})), tmp_path / "out")
    found = summary.result.tokens_to_match
    assert found is not None
    assert (found.trained, found.most) == (40 * 64, 4 * 40 * 64)
    assert found.loss_at_most < summary.result.val_loss
    assert "Its curve suggests that " in verdict(summary)
    until = summary.controls[0].behind_until
    assert until is not None
    assert 0 <= until <= 40 * 64
    assert RunSummary.read(tmp_path / "out" / "summary.json") == summary
    page = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "Its curve suggests that " in page
    assert "## Forecast" in page
