"""Runs on data of every origin: what the records say of it, going on after a stop, and data lost on the way."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import read_json, tiny_recipe
from inheritune.corpus import prepare
from inheritune.data import Sequences, open_prepared
from inheritune.experiment import run
from inheritune.recipe import Recipe
from inheritune.runlog import read_metrics
from processes import Started, program


@pytest.mark.long
def test_records_and_log_say_what_a_run_leaves_over(
    text: Path, reference_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    tree = tiny_recipe(text, reference_folder) | {"controls": [], "grow": None}
    tree["data"]["size"] = "1003 tokens"
    tree["train"]["length"] = "1.5 epochs"
    summary = run(Recipe.model_validate(tree), tmp_path / "run")
    validation = open_prepared(tmp_path / "run" / "data").manifest["tokens"]["validation"]
    # 1002 tokens are predicted, in 62 sequences of 16; 93 of them are an epoch and a half, in batches of 4
    assert read_json(tmp_path / "run" / "manifest.json")["lineage"]["left_over_tokens"] == {
        "train": 10, "validation": (validation - 1) % 16
    }  # fmt: skip
    found = summary.rounds[0]
    assert (found.steps, found.tokens, found.left_over_tokens) == (23, 23 * 64, 16)
    said = "round 1-1layers: 1,488 tokens (1.5 epochs) asked for; 23 whole steps of 64 are 1,472"
    assert caplog.messages.count(said) == 1


def test_windows_that_begin_anywhere_leave_nothing_over() -> None:
    row = np.zeros(1003, np.uint16)
    assert [Sequences(row, 16, "", how).left_over for how in ("shuffled", "with replacement")] == [10, 0]


@pytest.mark.long
def test_a_run_that_goes_on_does_not_read_the_data_again(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(text, reference_folder) | {"controls": [], "grow": None}
    recipe = Recipe.model_validate(tree)
    run(recipe, tmp_path / "run")
    for _ in range(2):
        (tmp_path / "run" / "summary.json").unlink()
        run(recipe, tmp_path / "run")
    noted = read_json(tmp_path / "run" / "data-verified.json")
    assert sorted(Path(file).name for file in noted) == ["train-00000.bin", "validation-00000.bin"]


@pytest.mark.long
def test_an_empty_folder_is_filled_with_a_recipes_data(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    done = program("prepare", write_recipe(tiny_recipe(text, reference_folder)), "--out", tmp_path / "data", "--quiet")
    assert done.returncode == 0, done.stderr
    open_prepared(tmp_path / "data").verify()


@pytest.mark.long
def test_a_reference_of_the_run_learns_inside_documents_too(text: Path, tmp_path: Path) -> None:
    found = {}
    for attention in ("sequence", "document"):
        tree = tiny_recipe(text) | {"controls": [], "grow": None}
        tree["train"] |= {"attention": attention, "sequence_length": 32}
        tree["data"]["sources"][0]["document"] = "40 characters"
        summary = run(Recipe.model_validate(tree), tmp_path / attention)
        losses = [r["loss"] for r in read_metrics(tmp_path / attention / "reference/metrics.jsonl") if "loss" in r]
        found[attention] = losses[0], summary.reference.val_loss
    assert found["sequence"][0] != found["document"][0]
    assert found["sequence"][1] != found["document"][1]


@pytest.mark.long
def test_data_cut_short_on_the_way_is_a_line_and_the_run_goes_on_when_it_is_back(
    text: Path, tokenizer: Any, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "made")
    tree = tiny_recipe(text, reference_folder) | {
        "data": {"prepared": str(tmp_path / "made")},
        "grow": None,
        "controls": [],
    }
    tree["train"] |= {"length": "4K steps", "checkpoint": {"every": "7 steps"}}
    path, shard = write_recipe(tree), tmp_path / "made" / "train-00000.bin"
    step = tmp_path / "run/rounds/1-1layers/checkpoints/step-000000007"
    begun = Started("run", path, "--out", tmp_path / "run", "-q")
    begun.wait_until(step.exists)
    content = shard.read_bytes()
    os.truncate(shard, 100)
    done = begun.end(60)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "train-00000.bin: has 100 bytes, it had more when it was opened; bring the file back" in done.stderr
    shard.write_bytes(content)
    begun = Started("run", path, "--out", tmp_path / "run")
    begun.wait_until(lambda: "resuming from step" in begun.said[1])
    begun.send(signal.SIGTERM)
    assert begun.wait(60) == 130
    assert "resuming from step" in begun.said[1]
