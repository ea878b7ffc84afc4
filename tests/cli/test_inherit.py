"""`inheritune inherit` as a stranger uses it: the plan before anything is written, and its options."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import inheritune
from conftest import read_json, weights
from inheritune.cli import main
from processes import program


def call(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main([str(word) for word in ("inherit", *words, "--json")]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.long
def test_the_plan_is_shown_and_nothing_written(reference_folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference_folder.iterdir()}
    done = program("inherit", reference_folder, "--layers", "0,3", "--show", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.startswith("2 of 4 blocks (0, 3), ")
    assert (
        "num_attention_heads 4, num_key_value_heads 2, head_dim 8, intermediate_size 48, hidden_size 32" in done.stdout
    )
    assert lines[3] == ["target", "tensor", "source", "tensor", "slice", "bytes"]
    assert ["model.layers.1.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight", "all", "6,144"] in lines
    assert "2 of 4 blocks (0, 3)" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert before == {path: path.stat().st_mtime_ns for path in reference_folder.iterdir()}


def test_the_plan_needs_no_weights(reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same plan from a checkpoint whose tensors are holes in a file: only its header can have been read."""
    (tmp_path / "config.json").write_bytes((reference_folder / "config.json").read_bytes())
    whole = (reference_folder / "model.safetensors").read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(whole))
    words = (
        "--layers",
        "3",
        "--choose",
        "every",
        "--heads",
        "0.5",
        "--mlp",
        "half",
        "--hidden",
        "half",
        "--importance",
        "first",
        "--submodules",
        "attention,norms",
        "--show",
    )
    assert call(capsys, tmp_path, *words) == call(capsys, reference_folder, *words)


def test_the_plan_in_figures(reference_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, reference_folder, "--layers", 2, "--submodules", "mlp", "--dtype", "bfloat16", "--show")
    rows = {row["target"]: row for row in found["plan"]}
    assert rows["model.layers.1.mlp.up_proj.weight"]["bytes"] == 48 * 32 * 2
    assert rows["lm_head.weight"]["source"] is None
    assert rows["lm_head.weight"]["slice"] == "new"
    assert sum(row["bytes"] for row in rows.values()) == 2 * found["parameters"]
    assert found["model"] is None
    assert "lm_head.weight" in found["dropped"]


@pytest.mark.parametrize(
    ("layers", "choose", "kept"),
    [("3", "ends", [0, 1, 3]), ("2", "every", [0, 2]), ("6", "stacked", [0, 1, 2] * 2), ("all", "first", [0, 1, 2, 3])],
)
def test_choices(
    reference_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    layers: str,
    choose: str,
    kept: list[int],
) -> None:
    found = call(capsys, reference_folder, tmp_path / "out", "--layers", layers, "--choose", choose)
    assert found["blocks"] == kept
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == len(kept)
    assert sum(parameter.numel() for parameter in model.parameters()) == found["parameters"]
    assert read_json(tmp_path / "out" / "inheritance.json")["blocks"] == kept


def test_dtype_is_as_stored_unless_named(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, reference_folder, tmp_path / "stored")
    call(capsys, reference_folder, tmp_path / "half", "--dtype", "bfloat16")
    stored, half = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("stored", "half"))
    assert (stored.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for name, tensor in stored.state_dict().items():
        assert torch.equal(half.state_dict()[name], tensor.to(torch.bfloat16)), name
    assert read_json(tmp_path / "half" / "config.json")["dtype"] == "bfloat16"


def test_what_is_new_is_drawn_with_the_seed_and_counted(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        call(capsys, reference_folder, tmp_path / name, "--layers", 1, "--submodules", "embeddings", "--seed", seed)
    one, again, two = (weights(tmp_path / name) for name in ("one", "again", "two"))
    assert one == again
    assert one["model.embed_tokens.weight"] == two["model.embed_tokens.weight"]
    assert one["lm_head.weight"] != two["lm_head.weight"]
    assert read_json(tmp_path / "one" / "inheritance.json")["tensors_fresh"] == len(one) - 1


def test_without_a_tokenizer_the_weights_are_written_and_it_is_said(reference_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((reference_folder / name).read_bytes())
    done = program("inherit", tmp_path / "bare", tmp_path / "out", "--layers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{tmp_path / 'bare'}: no tokenizer there, so none is written; name one with --tokenizer\n"
    json.loads(done.stdout)
    assert not list((tmp_path / "out").glob("tokenizer*"))
    done = program("inherit", tmp_path / "bare", tmp_path / "with", "--tokenizer", reference_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "with" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "5"], "5 blocks asked for, the reference has 4; give at most 4"),
        (["--layers", "0,4"], "block 4 is not there: the reference has 4; legal are 0 to 3"),
        (["--layers", "2,1"], "rising order"),
        (["--layers", "1,1"], "rising order, each once"),
        (["--layers", "3-1"], "reversed"),
        (["--layers", ""], "layers"),
        (["--layers", "0"], "at least one block"),
        (["--layers", "1.5"], "lies in (0, 1]"),
        (["--layers", "3", "--choose", "stacked"], "3 blocks cannot be the same blocks twice; give an even number"),
        (["--submodules", "heads"], "there is no 'heads'; legal are all, none, or a list of attention"),
        (["--mlp", "third"], "legal are a number (1024), a fraction (0.5)"),
        (["--dtype", "int8"], "legal are float64, float32, float16, bfloat16"),
        ([], "no folder to write; name it behind the reference, or ask for --show"),
    ],
)
def test_wrong_words_are_a_line(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    out = [str(tmp_path / "out")] if words else []
    assert main(["inherit", str(reference_folder), *out, *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_kept_blocks_are_refitted_on_text(
    reference_folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--layers", "0,1,3", "--text", text, "--refit", "640 tokens")
    changed = [[], ["self_attn.o_proj", "mlp.down_proj"], ["self_attn.o_proj", "mlp.down_proj"]]
    assert call(capsys, reference_folder, *words, "--show")["refit"] == changed
    call(capsys, reference_folder, tmp_path / "out", *words)
    call(capsys, reference_folder, tmp_path / "plain", "--layers", "0,1,3")
    call(capsys, reference_folder, tmp_path / "half", *words, "--dtype", "bfloat16")
    assert read_json(tmp_path / "half" / "config.json")["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    record = {"matrices": 4, "sequences": 10, "sequence_length": 64, "ridge": 0.3}
    assert read_json(tmp_path / "out" / "inheritance.json")["refit"] == record
    assert "4 matrices by least squares" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    fitted, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    expected = {f"model.layers.{place}.{name}.weight" for place, names in enumerate(changed) for name in names}
    assert {name for name in plain if not torch.equal(fitted[name], plain[name])} == expected
    in_memory = inheritune.inherit(reference_folder, [0, 1, 3], text=text, refit="640 tokens").state_dict()
    assert all(torch.equal(in_memory[name], tensor) for name, tensor in fitted.items())


def test_a_refit_that_cannot_be_is_refused_before_the_text_is_read(
    reference_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inherit", str(reference_folder), "--show", "--text", "no such text", "--refit", "8K tokens"]
    assert main([*words, "--submodules", "attention"]) == 2
    assert "blocks with all their weights" in capsys.readouterr().err
    assert main(["inherit", str(reference_folder), "--show", "--refit", "8K tokens"]) == 2
    assert "8K tokens, and there is no text" in capsys.readouterr().err
