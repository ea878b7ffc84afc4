"""`inheritune analyze` as a stranger uses it: what it prints and writes, and what it refuses in a line."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from conftest import read_json
from inheritune.cli import main

FEW = ["--sequences", "3", "--length", "12", "--device", "cpu"]


def call(*words: Any) -> int:
    return main(["analyze", *map(str, words)])


@pytest.mark.long
@pytest.mark.parametrize("choose", ["auto", "rank"])
def test_it_prints_a_table_and_writes_a_page(
    choose: str, text: Path, reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("--choose", choose, "--layers", 2, "--calibration", "64 tokens", "--out", out)
    assert call(reference_folder, "--text", text, *FEW, *words) == 0
    said = capsys.readouterr().out
    found = read_json(out / "analysis.json")
    (model,) = found["models"]
    assert model["selection"]["reason"] in said
    for block in model["blocks"]:
        assert f"{block['influence']['mean']:.3f}" in said
    assert str(out) in said
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"Chosen ({choose})" in page
    assert "block dropped" in page
    assert ("loss then" in page) == (choose == "auto")


def test_json_is_the_whole_of_it(text: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(reference_folder, reference_folder, "--text", text, *FEW, "--tau", "0.9,0.5", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["tau"] == [0.9, 0.5]
    assert [model["layers"] for model in found["models"]] == [4, 4]
    assert found["models"][0]["selection"] is None
    assert said.err == ""


def test_a_table_of_a_model_without_attention(
    text: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=4)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    assert call(tmp_path / "model", "--text", text, *FEW) == 0
    assert "no attention weights" in capsys.readouterr().out
    refused = call(
        tmp_path / "model", "--text", text, *FEW, "--quiet", "--choose", "rank", "--calibration", "64 tokens"
    )
    said = capsys.readouterr()
    assert refused == 2
    check(said.err, ["choose: rank", "shows no attention weights", "give auto, influence or loss"])


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "tau of 1": (["--tau", "1"], ["tau: got 1", "above 0 and below 1"]),
    "tau of 0": (["--tau", "0"], ["tau: got 0"]),
    "tau above 1": (["--tau", "0.9,1.5"], ["tau: got 0.9, 1.5"]),
    "tau twice": (["--tau", "0.9,0.9"], ["each once"]),
    "tau in words": (["--tau", "most"], ["--tau: got 'most'", "give numbers above 0 and below 1"]),
    "tau that is not a number": (["--tau", "nan"], ["tau: got nan"]),
    "more sequences than the text has": (["--sequences", "100000"], ["100000 sequences of 12 tokens asked for", "the text has"]),
    "no sequences": (["--sequences", "0"], ["--sequences: got 0", "give 1 or more"]),
    "no length": (["--length", "0"], ["--length: got 0", "give 1 or more"]),
    "no sequences for the losses": (["--loss-sequences", "0"], ["--loss-sequences: got 0"]),
    "longer than the positions": (["--length", "65"], ["--length", "64 positions", "give at most 64"]),
    "unknown choice": (["--choose", "best"], ["--choose: got 'best'", "auto, rank, influence, loss"]),
    "a choice that measures nothing": (["--choose", "first"], ["--choose: got 'first'"]),
    "unknown dtype": (["--dtype", "int8"], ["--dtype: got 'int8'"]),
    "unknown device": (["--device", "abacus"], ["abacus"]),
    "too many blocks": (["--layers", "5", "--calibration", "64 tokens"], ["5 blocks asked for, the reference has 4"]),
    "a list of blocks to choose": (["--layers", "0,2"], ["not with a list"]),
    "a budget without a unit": (["--layers", "3 bananas"], ["layers", "legal are"]),
    "a budget below a block": (["--size", "1K parameters", "--calibration", "64 tokens"], ["1K parameters, and one block"]),
    "a calibration without a unit": (["--choose", "auto", "--calibration", "9"], ["a size needs its unit"]),
}  # fmt: skip


def check(said: str, words: list[str]) -> None:
    lines = said.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert ";" in lines[0], "no remedy"
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(
    case: str, text: Path, reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = WRONG[case]
    status = call(reference_folder, "--text", text, "--out", tmp_path / "out", "--quiet", *FEW, *options)
    said = capsys.readouterr()
    assert status == 2, said.err
    assert said.out == ""
    check(said.err, words)
    assert list(tmp_path.iterdir()) == []


def test_wrong_text_and_places(
    text: Path, reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("the small model")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.txt").write_text("a user's own")
    cases: list[tuple[list[Any], list[str]]] = [
        (["--text", tmp_path / "short.txt"], ["short.txt", "one sequence takes 13", "give more text"]),
        (["--text", tmp_path / "nothing"], ["nothing", "no such file or folder"]),
        (["--data", tmp_path / "there"], ["no prepared data there"]),
        ([], ["text: none given", "give --text or --data"]),
        (["--text", text, "--data", tmp_path], ["text: both text and data", "one of the two"]),
        (["--text", text, "--out", tmp_path / "there"], ["there", "exists"]),
    ]
    for options, words in cases:
        assert call(reference_folder, *FEW, "--quiet", *options) == 2
        check(capsys.readouterr().err, words)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["own.txt"]


def test_models_that_are_no_decoders(
    text: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(num_hidden_layers=0, **sizes)).save_pretrained(tmp_path / "empty")
    BertForMaskedLM(BertConfig(num_hidden_layers=2, **sizes)).save_pretrained(tmp_path / "encoder")
    for name in ("empty", "encoder"):
        tokenizer.save_pretrained(tmp_path / name)
    for name, words in (("empty", ["block"]), ("encoder", ["encoder"]), ("nowhere/model", ["nowhere/model"])):
        assert call(tmp_path / name, "--text", text, *FEW, "--quiet") == 2
        check(capsys.readouterr().err, words)
