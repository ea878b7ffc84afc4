"""Token files of nanoGPT as a run's data; attention inside documents and drawing with replacement from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import read_json, tiny_recipe
from inheritune import train
from inheritune.arch import load_model
from inheritune.errors import InputError
from inheritune.evaluation import judge_on
from inheritune.experiment import run
from inheritune.recipe import Recipe, Reference


@pytest.fixture
def files(tmp_path: Path, text: Path, tokenizer: Any) -> Path:
    """train.bin and val.bin as nanoGPT's scripts write them."""
    rows = [[*tokenizer(file.read_text())["input_ids"], tokenizer.eos_token_id] for file in sorted(text.iterdir())]
    (tmp_path / "tokens").mkdir()
    for name, part in (("train.bin", rows[:-8]), ("val.bin", rows[-8:])):
        np.concatenate(part).astype(np.uint16).tofile(tmp_path / "tokens" / name)
    return tmp_path / "tokens"


def recipe(text: Path, reference: Path, data: dict[str, Any], **train: Any) -> Recipe:
    tree = tiny_recipe(text, reference) | {"data": data, "controls": [], "grow": None}
    return Recipe.model_validate(tree | {"train": tree["train"] | train})


@pytest.mark.long
def test_a_folder_and_named_files_give_the_same_run(
    tmp_path: Path, text: Path, reference_folder: Path, files: Path
) -> None:
    named = {"tokens": {"train": [str(files / "tr*.bin")], "validation": [str(files / "val.bin")]}}
    losses = [
        run(recipe(text, reference_folder, data), tmp_path / name).rounds[0].val_loss
        for name, data in (("folder", {"prepared": str(files)}), ("named", named))
    ]
    assert losses[0] == losses[1]
    judged = judge_on(load_model(Reference(path=str(tmp_path / "named/rounds/1-1layers/model"))), files, 16)
    assert judged.loss.value == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.long
def test_changed_files_are_refused_when_the_run_goes_on(
    tmp_path: Path, text: Path, reference_folder: Path, files: Path
) -> None:
    wanted = recipe(text, reference_folder, {"prepared": str(files)})
    run(wanted, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    content = (files / "train.bin").read_bytes()
    (files / "train.bin").write_bytes(content[:-4] + b"\2\0\0\0")
    with pytest.raises(InputError, match=r"train\.bin: changed since"):
        run(wanted, tmp_path / "run")


@pytest.mark.long
def test_documents_and_replacement_from_end_to_end(
    tmp_path: Path, text: Path, reference_folder: Path, files: Path
) -> None:
    found = {}
    for name, changed in (
        ("plain", {}), ("documents", {"attention": "document"}), ("drawn", {"sampling": "with replacement"})
    ):  # fmt: skip
        summary = run(recipe(text, reference_folder, {"prepared": str(files)}, **changed), tmp_path / name)
        found[name] = summary.reference.val_loss, summary.rounds[0].val_loss, summary.rounds[0].flops
    assert found["drawn"][0] == found["plain"][0]  # validation is as ever
    assert found["drawn"][1] != found["plain"][1]
    assert found["documents"][0] != found["plain"][0]  # the reference is judged inside documents too
    assert found["documents"][2] == found["plain"][2]
    model = load_model(Reference(path=str(reference_folder)))
    data = tmp_path / "documents" / "data"
    assert judge_on(model, data, 16, attention="document").loss.value == pytest.approx(found["documents"][0], rel=1e-6)


def test_data_without_an_end_of_text_has_no_documents(
    tmp_path: Path, text: Path, reference_folder: Path, files: Path, tokenizer: Any
) -> None:
    row = np.fromfile(files / "train.bin", np.uint16)
    row[row != tokenizer.eos_token_id].tofile(files / "train.bin")
    with pytest.raises(InputError, match=r"train\.attention: document, and the data has no end-of-text token"):
        run(recipe(text, reference_folder, {"prepared": str(files)}, attention="document"), tmp_path / "run")


def test_training_on_them_by_itself(tmp_path: Path, reference_folder: Path, files: Path) -> None:
    settings = {"length": "3 steps", "batch": "4 sequences", "sequence_length": 16}
    _, found = train(reference_folder, files, tmp_path / "out", settings=settings)
    assert found.steps == 3
    sums = read_json(tmp_path / "out" / "request.json")["data"]
    assert sorted(sums) == [str(files / "train.bin"), str(files / "val.bin")]
    (files / "train.bin").write_bytes((files / "train.bin").read_bytes()[:-2])
    with pytest.raises(InputError, match="belongs to another training"):
        train(reference_folder, files, tmp_path / "out", settings=settings)
    with pytest.raises(InputError, match="name the tokenizer that made them; give that tokenizer"):
        model = load_model(Reference(path=str(reference_folder)))
        train(model, files, tmp_path / "other", settings=settings)
