"""One training in a folder of its own: one process at a time, one request, and what is said of another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import weights
from inheritune import prepare, train
from inheritune.errors import InputError
from inheritune.runlog import locked
from processes import program

SETTINGS = {"length": "3 steps", "batch": "2 sequences", "sequence_length": 16}


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    train(reference_folder, data, folder, settings=SETTINGS)
    return folder


def test_a_second_process_is_kept_out(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    words = [
        "train",
        reference_folder,
        tmp_path / "out",
        "--data",
        data,
        "--length",
        "3 steps",
        "--sequence-length",
        "16",
    ]
    with locked(tmp_path / "out"):
        done = program(*words)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"error: {tmp_path / 'out'}: another process is at work in it; wait for that one, or give another folder"
        ]
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    train(
        reference_folder, data, tmp_path / "out", settings=SETTINGS
    )  # given back, and what is left is in nobody's way


def test_a_second_training_in_this_process_is_kept_out_too(data: Path, reference_folder: Path, trained: Path) -> None:
    with locked(trained), pytest.raises(InputError, match="another process is at work in it"):
        train(reference_folder, data, trained, settings=SETTINGS)


def test_another_request_is_told_what_differs(data: Path, reference_folder: Path, trained: Path) -> None:
    with pytest.raises(InputError, match=r"another training: train\.length \(3 steps there, 4 steps here\); give"):
        train(reference_folder, data, trained, settings=SETTINGS | {"length": "4 steps"})
    with pytest.raises(InputError, match=r"seed \(1 there, 2 here\)"):
        train(reference_folder, data, trained, settings=SETTINGS, seed=2)


def test_the_same_request_in_other_words_is_the_same(data: Path, reference_folder: Path, trained: Path) -> None:
    more = {"micro_batch": 1, "checkpoint": {"every": "1 steps"}}
    _, found = train(f"{reference_folder}/", data, trained, settings=SETTINGS | more)
    assert found.steps == 3


def test_data_count_by_what_is_in_them(
    data: Path, reference_folder: Path, trained: Path, text: Path, tokenizer: Any, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "moved")
    train(reference_folder, tmp_path / "moved", trained, settings=SETTINGS)
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "other", seed=2)
    with pytest.raises(InputError, match=r"another training: data\.train-00000\.bin"):
        train(reference_folder, tmp_path / "other", trained, settings=SETTINGS)


def test_a_folder_that_is_something_else_is_left_alone(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        train(reference_folder, data, tmp_path, settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_wrong_input_leaves_no_request(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 64"):
        train(reference_folder, data, tmp_path / "out", settings=SETTINGS | {"sequence_length": 128})
    train(reference_folder, data, tmp_path / "out", settings=SETTINGS)
    assert json.loads((tmp_path / "out" / "request.json").read_text())["train"]["sequence_length"] == 16


def test_a_model_that_was_taken_away_can_be_made_again(
    data: Path, reference_folder: Path, trained: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(trained, tmp_path / "out")
    before = weights(place / "model")
    shutil.rmtree(place / "model")
    with pytest.raises(InputError, match=r"model: is gone, .* or remove .*evaluation\.json: it is then made again"):
        train(reference_folder, data, place, settings=SETTINGS)
    (place / "evaluation.json").unlink()
    train(reference_folder, data, place, settings=SETTINGS)
    assert weights(place / "model") == before


def test_a_damaged_request_is_not_taken_for_another_one(
    data: Path, reference_folder: Path, trained: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(trained, tmp_path / "out")
    (place / "request.json").write_text("{")
    with pytest.raises(InputError, match=r"request\.json: is damaged, .*; give another folder"):
        train(reference_folder, data, place, settings=SETTINGS)


@pytest.mark.parametrize("given", ["loaded", "a folder"])
def test_the_end_of_text_is_trained_though_it_is_the_padding_token(
    given: str, data: Path, reference_folder: Path, tmp_path: Path
) -> None:
    """As in a model whose config has no padding token, bit for bit; tokenizers trained earlier had such a one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"length": "12 steps", "batch": "8 sequences", "sequence_length": 16}  # so that some documents end
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    assert model.get_input_embeddings().padding_idx == model.config.eos_token_id == 0
    tokenizer = AutoTokenizer.from_pretrained(reference_folder)
    tokenizer.pad_token = tokenizer.eos_token
    found, _ = train(
        reference_folder if given == "a folder" else model, data, tmp_path / "out", settings=settings,
        tokenizer=tokenizer,
    )  # fmt: skip
    without = AutoModelForCausalLM.from_pretrained(reference_folder, pad_token_id=None)
    assert without.get_input_embeddings().padding_idx is None
    train(without, data, tmp_path / "other", settings=settings, tokenizer=tokenizer)
    assert weights(tmp_path / "out" / "model") == weights(tmp_path / "other" / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert plain.config.pad_token_id == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").pad_token == "<|endoftext|>"
    row = plain.get_input_embeddings().weight[0]
    assert row.equal(found.get_input_embeddings().weight[0])
    assert not row.equal(model.get_input_embeddings().weight[0])
