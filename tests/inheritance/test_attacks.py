"""What careless hands and odd checkpoints do to `inherit`: nothing of the user's is lost, nothing is taken for granted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaModel

from conftest import read_json, stored_tensors
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.inheritance import check_free, inherit


@pytest.fixture
def reference(reference_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny reference that a test may change."""
    return Path(shutil.copytree(reference_folder, tmp_path / "reference"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = read_json(folder / "config.json")
    config |= changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def edit_tensors(folder: Path, **changes: Any) -> None:
    """Rewrite the weights; `cast` is applied to each, `add` are more tensors."""
    tensors = {
        name: changes.get("cast", lambda tensor: tensor)(tensor)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors | changes.get("add", {}), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", [".git", ".env", "..", "notes.txt"])
def test_a_folder_with_anything_in_it_is_not_written_over(reference: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name if name != ".." else out / "...").mkdir(parents=True)
    before = sorted(out.iterdir())
    assert main(["inherit", str(reference), str(out), "--layers", "1"]) == 2
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("name", [".lock", ".request.json.partial"])
def test_what_a_killed_process_of_ours_left_does_not_count(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert check_free(tmp_path) == tmp_path.resolve()


def test_what_a_killed_process_left_beside_its_result_is_removed(tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / ".out.mine"
    (out / "model").mkdir(parents=True)
    for name in (".out.lock", ".out.drops.json", mine.name):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="exists already"):
        check_free(out)
    assert sorted(tmp_path.iterdir()) == sorted([out, mine])


def test_places_that_are_names_for_others(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("here", "behind", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for out in (str(tmp_path / "link"), str(tmp_path / "dangling"), "~/small", "deep/er/est"):
        assert main(["inherit", str(reference), out, "--layers", "1"]) == 0, out
    for folder in ("behind", "new", "home/small", "here/deep/er/est"):
        assert (tmp_path / folder / "model.safetensors").exists(), folder
    (tmp_path / "file").touch()
    capsys.readouterr()
    for out in (str(tmp_path / "file" / "x"), ".", str(tmp_path / "here" / "..")):
        assert main(["inherit", str(reference), out, "--layers", "1"]) == 2, out
        assert capsys.readouterr().err.count("\n") == 1


def test_a_weight_that_the_config_denies_is_named(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transformers leaves a bias out with a warning where the config says that there is none."""
    edit_tensors(reference, add={"model.layers.1.self_attn.q_proj.bias": torch.ones(32)})
    assert main(["inherit", str(reference), str(tmp_path / "out"), "--layers", "1"]) == 2
    assert (
        "model.layers.1.self_attn.q_proj.bias: the model that the config describes has no such tensor"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_what_older_versions_stored_beside_is_left_out(reference: Path, tmp_path: Path) -> None:
    extra = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4), "score.weight": torch.ones(2, 32)}
    edit_tensors(reference, add=extra)
    assert main(["inherit", str(reference), str(tmp_path / "out"), "--layers", "2"]) == 0
    assert not extra.keys() & stored_tensors(tmp_path / "out").keys()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--heads", "half", "--mlp", "half", "--hidden", "half", "--importance", "first"],
        ["--submodules", "attention"],
    ],
    ids=str,
)
def test_where_the_config_names_no_dtype_the_files_do(
    reference: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(reference, dtype="gone", torch_dtype="gone")
    edit_tensors(reference, cast=lambda tensor: tensor.bfloat16())
    assert main(["inherit", str(reference), str(tmp_path / "out"), "--layers", "2", *words]) == 0
    assert {tensor.dtype for tensor in stored_tensors(tmp_path / "out").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16
    capsys.readouterr()
    assert main(["inherit", str(reference), "--layers", "2", *words, "--show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(row["bytes"] for row in shown["plan"]) == sum(
        tensor.nbytes for tensor in stored_tensors(tmp_path / "out").values()
    )


@pytest.mark.parametrize(
    "content", ['{"temperature": ', "[]", '{"max_new_tokens": -3}', '{"watermarking_config": {"bogus": 1}}']
)
def test_damaged_settings_for_generation_are_named(
    reference: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (reference / "generation_config.json").write_text(content)
    assert main(["inherit", str(reference), str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "generation_config.json" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"hidden_act": "nonsense"},
        {"vocab_size": -1},
        {"pad_token_id": 9999},
        {"hidden_size": "wide"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_model_is_wrong_input(
    reference: Path, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(reference, **changes)
    assert main(["inherit", str(reference), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "0-99999999"], "more blocks than any model has"),
        (["--layers", "²"], "is not a block"),
        (["--layers", "0,1", "--choose", "last"], "choose: last goes with a number"),
        (["--revision", "main"], "is of a model on the hub"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "99999999999999999999"], "--seed"),
    ],
)
def test_words_that_would_do_nothing_or_harm(
    reference: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inherit", str(reference), str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


def test_python_s_own_wrong_words(reference: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference)
    with torch.device("meta"):
        empty = type(model)(model.config)
    for given, said in (
        (None, "got a NoneType"),
        (torch.nn.Linear(2, 2), "got a Linear"),
        (empty, "on the meta device"),
        (LlamaModel.from_pretrained(reference), "its config makes a LlamaForCausalLM"),
    ):
        with pytest.raises(InputError, match=said):
            inherit(given, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got torch\.int8; legal are"):
        inherit(model, 1, dtype=torch.int8)
