"""A config that names attention code on the hub: nothing asks for it unless its authors are trusted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.integrations import hub_kernels

from inheritune.arch import load_config, load_model
from inheritune.cli import main
from inheritune.recipe import Reference

KERNEL = "kernels-community/nobody-may-fetch-this"
NAMES = [KERNEL, f"{KERNEL}@main:attention", f"paged|{KERNEL}", "paged|sdpa", "flash_attention_2", "flash_attention_3"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What transformers' loader of kernels is asked for."""
    found: list[Any] = []

    def note(*words: Any, **more: Any) -> None:
        found.append(words)
        raise ValueError("a kernel was asked for")

    for name in ("load_and_register_attn_kernel", "get_kernel"):
        if hasattr(hub_kernels, name):
            monkeypatch.setattr(hub_kernels, name, note)
    for place in ("transformers.modeling_utils.lazy_import_flash_attention",
                  "transformers.modeling_flash_attention_utils.load_and_register_attn_kernel"):  # fmt: skip
        monkeypatch.setattr(place, note, raising=False)
    return found


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_ignored_and_said(
    name: str, key: str, asked: list[Any], reference_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(reference_folder, tmp_path / "large"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: name}))
    assert load_config(Reference(path=str(folder)))._attn_implementation is None
    assert "which is code of others" in caplog.text
    caplog.clear()
    model = load_model(Reference(path=str(folder)))
    assert "trust_remote_code" in caplog.text
    plain = AutoModelForCausalLM.from_pretrained(reference_folder)
    tokens = torch.arange(8)[None]
    assert torch.equal(model(tokens).logits, plain(tokens).logits)
    assert model.config._attn_implementation in ("sdpa", "eager")
    assert asked == []
    if name == KERNEL:
        with pytest.raises(Exception, match="kernel"):  # with trust it is transformers' to load it
            load_model(Reference(path=str(folder), trust_remote_code=True))


@pytest.mark.parametrize("name", ["sonicmoe", "deepgemm", 5])
def test_experts_by_code_of_others_are_ignored_too(
    name: Any, asked: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"experts_implementation": name}))
    model = load_model(Reference(path=str(tmp_path)))
    assert f"asks for the experts {name!r}, which is code of others" in caplog.text
    assert model.config._experts_implementation in ("eager", "grouped_mm")
    assert asked == []


def test_what_a_forward_returns_is_not_for_a_config_to_say(reference_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reference_folder, tmp_path / "large"))
    config = json.loads((folder / "config.json").read_text())
    wordy = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
    (folder / "config.json").write_text(json.dumps(config | wordy))
    found = load_model(Reference(path=str(folder)))(torch.arange(8)[None])
    assert found.attentions is None
    assert found.hidden_states is None
    assert main(["inherit", str(folder), str(tmp_path / "out"), "--layers", "1"]) == 0


def test_what_comes_with_transformers_is_kept(
    reference_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(reference_folder, tmp_path / "large"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    assert load_model(Reference(path=str(folder))).config._attn_implementation == "eager"
    assert caplog.messages == []


def test_the_program_says_it_in_a_line(
    asked: list[Any], reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(reference_folder, tmp_path / "large"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": KERNEL}))
    assert main(["inherit", str(folder), str(tmp_path / "out"), "--layers", "1"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if KERNEL in line]
    assert lines
    assert all(line.startswith(f"warning: {folder}: its config asks for") for line in lines)
    assert KERNEL not in (tmp_path / "out" / "config.json").read_text()
    assert asked == []
