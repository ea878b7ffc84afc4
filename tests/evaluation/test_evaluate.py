"""`evaluate`: several models side by side, what it refuses, what it writes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import inheritune
from conftest import read_json
from inheritune.cli import main
from inheritune.errors import InputError

LINE = "the small model keeps some of the large one's blocks\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text(LINE * 5)
    return tmp_path / "page.txt"


def test_models_have_names_of_their_own_and_loaded_ones_stay_as_they_are(
    reference_folder: Path, tokenizer: Any, page: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(reference_folder, tmp_path / "deep" / reference_folder.name))
    loaded = AutoModelForCausalLM.from_pretrained(reference_folder, dtype=torch.bfloat16)
    found = inheritune.evaluate(
        [reference_folder, copied, loaded, loaded], text=[page], tokenizer=tokenizer, device="cpu", out=tmp_path / "out"
    ).to_json()
    assert len({one["name"] for one in found["models"]}) == 4
    assert found["models"][1]["name"] == str(copied)
    assert [one["path"] for one in found["models"]][1:] == [str(copied), None, None]
    assert found["models"][0]["val_loss"] == found["models"][1]["val_loss"] != found["models"][2]["val_loss"]
    assert loaded.dtype == torch.bfloat16
    assert found["models"][0]["layers"] == 4
    assert read_json(tmp_path / "out" / "evaluation.json") == found
    assert found["text"] == {
        "source": str(page), "sequences": found["text"]["sequences"], "sequence_length": 64,
        "tokens": found["text"]["tokens"], "bytes": 5 * len(LINE) - 3,  # nothing predicts the first token
        "documents": 1,
    }  # fmt: skip
    assert (found["version"], found["harness"], found["published"]) == (1, None, [])


def test_attention_inside_documents(reference_folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(LINE * (1 + number % 2))
    losses = [
        inheritune.evaluate(reference_folder, text=tmp_path, attention=attention, device="cpu").to_json()["models"][0][
            "val_loss"
        ]
        for attention in ("sequence", "document")
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "command line: nothing to judge on; give --text, --data or --tasks"),
        (["--text", "PAGE", "--data", "DATA"], "text: both text and data; give --text or --data, one of the two"),
        (["--data", "DATA"], "no prepared data there (no manifest.json)"),
        (["--text", "PAGE", "--dtype", "int8"], "--dtype: got 'int8'; legal are auto, float32 and bfloat16"),
        (["--text", "PAGE", "--attention", "none"], "attention: got 'none'"),
        (["--text", "PAGE", "--out", "."], "exists already"),
        (["--text", "PAGE", "--tasks", ","], "--tasks: names none"),
        (["--text", "PAGE", "--tasks-folder", "DATA"], "--tasks-folder: no task of it is asked for"),
        (["--text", "PAGE", "--published"], "--published: none of these tasks has a published figure"),
    ],
)
def test_wrong_wishes_are_a_line(
    words: list[str], said: str, reference_folder: Path, page: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(page.parent)
    places = {"PAGE": str(page), "DATA": str(page.parent)}
    assert main(["evaluate", str(reference_folder), *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_model_without_tokenizer_is_a_line(
    reference_folder: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(reference_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    assert main(["evaluate", str(bare), "--text", str(page), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "no tokenizer files there" in error
    assert error.count("\n") == 1
    assert main(["evaluate", str(bare), "--text", str(page), "--tokenizer", str(reference_folder), "--json"]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(reference_folder)
    with pytest.raises(InputError, match="a loaded model comes without one; give the tokenizer, or prepared data"):
        inheritune.evaluate(loaded, text=page, device="cpu")


def test_table_and_json_of_the_command(reference_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    words = ["evaluate", str(reference_folder), "--text", str(page), "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"{found['models'][0]['val_loss']:.4f}" in shown
    assert f"{found['models'][0]['bits_per_byte']:.4f}" in shown
    assert "262 bytes" in shown


def test_a_run_that_has_no_result_is_refused(tmp_path: Path, text: Path, write_recipe: Any) -> None:
    from conftest import tiny_recipe

    run = tmp_path / "run"
    run.mkdir()
    shutil.move(write_recipe(tiny_recipe(text)), run / "recipe.yaml")
    with pytest.raises(InputError, match="a run without a result yet"):
        inheritune.evaluate(run, device="cpu")
