"""A recipe that says `choose: auto`: chosen once, on training text, and grown by what was dropped last."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import inheritune
from conftest import heard, read_json, tiny_recipe, weights
from cut_off import Killed, cut_off_at
from inheritune import prepare
from inheritune.data import Sequences, open_prepared, sample
from inheritune.errors import InputError, Interrupted
from inheritune.experiment import run
from inheritune.recipe import load_recipe
from inheritune.results import BlockChoice, Round, RoundResult


def recipe(text: Path, reference: Path, **inherit: Any) -> dict[str, Any]:
    """Three rounds, of 1, 2 and 3 of 4 blocks, all of them trained."""
    tree = tiny_recipe(text, reference)
    tree["inherit"] = {"layers": 1, "choose": "auto", "calibration": "128 tokens", **inherit}
    tree["train"]["length"] = "3 steps"
    tree["grow"] = {"by": 1, "until": "max_layers", "max_layers": 3}
    tree["controls"] = []
    return tree


def check_nested(out: Path, rounds: Sequence[Round | RoundResult], folders: list[Path]) -> None:
    selection = BlockChoice.read(out / "selection.json")
    order = [one.block for one in selection.dropped]
    assert selection.choose == "auto"
    assert len(order) == 3
    assert rounds[0].blocks == selection.blocks == [block for block in range(4) if block not in order]
    for number, (found, folder) in enumerate(zip(rounds, folders, strict=True)):
        assert found.blocks == sorted(set(range(4)) - set(order[: 3 - number]))
        assert read_json(folder / "inherited.json")["blocks"] == found.blocks


@pytest.mark.long
def test_a_choice_that_was_interrupted_in_a_run_resumes(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    """Ctrl-C behind each drop: the choice of an uninterrupted run, and no drop is looked for twice."""
    path, said = write_recipe(recipe(text, reference_folder)), list[str]()

    def tell(line: str) -> None:
        said.append(line)
        if line.startswith("dropped"):
            raise KeyboardInterrupt

    out, drops = tmp_path / "out", tmp_path / "out" / "selection-drops.json"
    with heard(tell):
        for kept in ("first drop is", "first 2 drops are", "first 3 drops are"):
            with pytest.raises(Interrupted, match=f"{kept} kept in {drops}: run the same command again"):
                run(load_recipe(path), out)
    assert sum(line.startswith("dropped") for line in said) == 3
    for folder in (out, tmp_path / "straight"):
        with cut_off_at("chose blocks"), pytest.raises(Killed):  # behind the choice
            run(load_recipe(path), folder)
        assert not list(folder.glob("*drops*"))
    resumed, straight = (read_json(folder / "selection.json") for folder in (out, tmp_path / "straight"))
    assert resumed | {"seconds": 0} == straight | {"seconds": 0}


@pytest.mark.long
def test_rounds_put_back_what_was_dropped_last(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after a stop between the choice and the first step: the choice stands, and is not made again."""
    caplog.set_level("INFO", "inheritune")
    path, seen, choosing = write_recipe(recipe(text, reference_folder)), set[tuple[int, ...]](), False

    def hear(line: str) -> None:
        nonlocal choosing
        choosing = choosing or (line.startswith("reference: ") and "validation loss" in line)

    def see(module: torch.nn.Module, given: Any) -> None:
        if choosing and isinstance(module, torch.nn.Embedding):
            seen.update(tuple(row) for row in given[0].tolist() if len(row) == 16)  # others are probes

    watching = register_module_forward_pre_hook(see)
    with heard(hear), cut_off_at("chose blocks"), pytest.raises(Killed):
        run(load_recipe(path), tmp_path / "out")
    watching.remove()
    chosen = (tmp_path / "out" / "selection.json").read_bytes()
    assert not (tmp_path / "out" / "rounds").exists()
    assert sum(line.startswith("dropped") for line in caplog.messages) == 3
    caplog.clear()
    summary = run(load_recipe(path), tmp_path / "out")
    assert (tmp_path / "out" / "selection.json").read_bytes() == chosen
    assert not any(line.startswith("dropped") for line in caplog.messages)
    assert [found.layers for found in summary.rounds] == [1, 2, 3]
    folders = [(tmp_path / "out" / found.model).parent for found in summary.rounds]
    check_nested(tmp_path / "out", summary.rounds, folders)
    # 128 tokens to see and 1,024 to recover on behind each of three drops, in rows as long as the recipe's sequences,
    # all of them training text; nothing is left to choose behind the third; a step is of 512 tokens
    train = open_prepared(tmp_path / "out" / "data").tokens("train")
    rows = sample(Sequences(train, 16, "train"), 8 + 3 * 64, "train").windows
    assert rows.shape == (8 + 3 * 64, 17)
    assert seen
    assert seen < {tuple(row[:-1]) for row in rows.tolist()}
    fewer = sample(Sequences(train, 16, "train"), 8 + 2 * 64, "train").windows
    assert not seen <= {tuple(row[:-1]) for row in fewer.tolist()}
    selection = BlockChoice.read(tmp_path / "out" / "selection.json")
    assert (selection.calibration.sequences, selection.recovery_steps) == (8, 4)
    tokens = np.fromfile(next((tmp_path / "out" / "data").glob("train*.bin")), np.uint16).tolist()
    for row in rows.tolist():
        assert any(tokens[at : at + 17] == row for at in range(len(tokens) - 16))
    # the recipe asks for auto still, so another run chooses for itself
    assert "choose: auto" in (tmp_path / "out" / "recipe.yaml").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="another recipe"):
        run(load_recipe(write_recipe(recipe(text, reference_folder, choose="rank"))), tmp_path / "out")


@pytest.mark.long
def test_an_order_that_was_decided_is_the_one_that_is_trained(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    """The same blocks named in a list give the same weights."""
    by_auto = recipe(text, reference_folder, layers=2)
    by_auto["grow"] = None
    summary = run(load_recipe(write_recipe(by_auto)), tmp_path / "auto")
    (found,) = summary.rounds
    listed = recipe(text, reference_folder)
    listed["grow"] = None
    listed["inherit"] = {"layers": found.blocks}
    named = run(load_recipe(write_recipe(listed)), tmp_path / "list").rounds[0]
    assert named.blocks == found.blocks
    assert weights(tmp_path / "list" / named.model) == weights(tmp_path / "auto" / found.model)
    assert not (tmp_path / "list" / "selection.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("start", ["reference", "trained"])
def test_grow_from_python(start: str, text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path) -> None:
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    _, rounds = inheritune.grow(
        reference_folder, tmp_path / "data", tmp_path / "out",
        inherit={"layers": 1, "choose": "auto", "calibration": "64 tokens"},
        train={"length": "2 steps", "batch": "2 sequences", "sequence_length": 16},
        rounds={"by": 1, "until": "max_layers", "max_layers": 3, "start": start}, device="cpu",
    )  # fmt: skip
    check_nested(tmp_path / "out", rounds, [tmp_path / "out" / found.folder for found in rounds])
    for before, after in pairwise(rounds):
        notes = read_json(tmp_path / "out" / after.folder / "inherited.json")
        assert notes.get("blocks_from_round") == (before.blocks if start == "trained" else None)


@pytest.mark.long
def test_a_budget_in_a_recipe(text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path) -> None:
    two = sum(parameter.numel() for parameter in set(inheritune.inherit(reference_folder, 2).parameters()))
    tree = recipe(text, reference_folder)
    tree["inherit"] = {key: value for key, value in tree["inherit"].items() if key != "layers"}
    tree["inherit"] |= {"size": f"{two} parameters", "shape": "depth"}
    tree["grow"] = None
    (found,) = run(load_recipe(write_recipe(tree)), tmp_path / "out").rounds
    assert (found.layers, found.parameters) == (2, two)
    tree["inherit"]["size"] = "1K parameters"
    with pytest.raises(InputError, match=r"inherit.size: 1K parameters, and one block"):
        run(load_recipe(write_recipe(tree)), tmp_path / "other")


@pytest.mark.long
def test_of_less_training_text_than_asked_for_all_is_seen(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, calibration="5M tokens")
    run(load_recipe(write_recipe(tree)), tmp_path / "out")
    found = BlockChoice.read(tmp_path / "out" / "selection.json").calibration
    tokens = read_json(tmp_path / "out" / "data" / "manifest.json")["tokens"]["train"]
    assert found.sequences == (tokens - 1) // found.sequence_length
