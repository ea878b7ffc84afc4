"""Quantised references: plain floats come out where that is possible, a line that says why elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from inheritune.arch import load_config, load_model
from inheritune.errors import InputError
from inheritune.inheritance import inherit_settings, write
from inheritune.recipe import Reference

BLOCK = (16, 24)
PLAIN = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**PLAIN, intermediate_size=40))  # 40 and 32: no multiples of 24


def experts() -> PreTrainedModel:
    config = Qwen3MoeConfig(
        **PLAIN, intermediate_size=48, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8
    )
    return Qwen3MoeForCausalLM(config)


def mark(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"quantization_config": fields}), encoding="utf-8")


def is_projection(name: str) -> bool:
    return name.endswith("proj.weight")


def to_fp8(
    build: Callable[[], PreTrainedModel], folder: Path, block: tuple[int, int] = BLOCK
) -> dict[str, torch.Tensor]:
    """Write an FP8 checkpoint, and return what it means, by a slow formula: every entry times its block's factor."""
    torch.manual_seed(1)
    build().to(torch.bfloat16).save_pretrained(folder)
    found, stored = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        found[name] = stored[name] = tensor
        if is_projection(name):
            rows, columns = tensor.shape
            values = (tensor.float() * 100).to(torch.float8_e4m3fn)
            factors = torch.rand(-(-rows // block[0]), -(-columns // block[1])) + 0.5
            stored |= {name: values, f"{name}_scale_inv": factors}
            plain = torch.empty(rows, columns)
            for row in range(rows):
                for column in range(columns):
                    plain[row, column] = values[row, column].float() * factors[row // block[0], column // block[1]]
            found[name] = plain.to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    mark(folder, quant_method="fp8", weight_block_size=list(block), activation_scheme="dynamic")
    return found


# The sixteen values of a 4-bit float of the OCP microscaling format: a sign, two bits of exponent, one of mantissa
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP4 += [-value for value in FP4]


def to_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
    """Write a checkpoint as gpt-oss is published: experts as blocks of 32 4-bit floats and a power of two for each."""
    torch.manual_seed(1)
    config = GptOssConfig(
        **PLAIN, intermediate_size=32, num_local_experts=2, num_experts_per_tok=1, head_dim=8, sliding_window=8
    )
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    found, stored = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        found[name] = stored[name] = tensor
        if name.endswith(("gate_up_proj", "down_proj")):
            count, inner, outer = tensor.shape  # the module holds it transposed
            blocks = torch.randint(0, 256, (count, outer, inner // 32, 16), dtype=torch.uint8)
            scales = torch.randint(120, 130, (count, outer, inner // 32), dtype=torch.uint8)
            del stored[name]
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            plain = torch.empty(count, outer, inner)
            for place in torch.cartesian_prod(*map(torch.arange, plain.shape)).tolist():
                expert, row, column = place
                byte = int(blocks[expert, row, column // 32, column % 32 // 2])
                value = FP4[byte >> 4 if column % 2 else byte & 15]
                plain[expert, row, column] = value * 2.0 ** (int(scales[expert, row, column // 32]) - 127)
            found[name] = plain.transpose(1, 2).contiguous().to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    mark(folder, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])
    return found


CASES: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    "fp8": lambda folder: to_fp8(llama, folder),
    "fp8 experts": lambda folder: to_fp8(experts, folder),
    "mxfp4": to_mxfp4,
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_values_and_what_is_inherited(case: str, tmp_path: Path) -> None:
    """The reference is what a slow formula says, and the target's file holds the same bytes and no mark."""
    meant = CASES[case](tmp_path / "reference")
    reference = Reference(path=str(tmp_path / "reference"))
    model = load_model(reference)
    model.save_pretrained(tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert plain.keys() == meant.keys()
    for name, tensor in meant.items():
        assert torch.equal(plain[name], tensor), name
    kept = [0, 2]
    write(reference, inherit_settings(kept), tmp_path / "target")
    found = load_file(tmp_path / "target" / "model.safetensors")
    assert len(found) == sum(".layers.1." not in name for name in meant)
    for name, tensor in found.items():
        assert torch.equal(tensor, meant[name.replace(".layers.1.", ".layers.2.")]), name
        assert tensor.dtype == torch.bfloat16
    config = json.loads((tmp_path / "target" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert not getattr(again, "is_quantized", False)
    assert again.dtype == torch.bfloat16


def test_fp8_is_what_transformers_makes_of_it_where_the_blocks_fill_the_tensors(tmp_path: Path) -> None:
    to_fp8(llama, tmp_path, (8, 8))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    ours = load_model(Reference(path=str(tmp_path))).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_factors_that_do_not_fit(tmp_path: Path) -> None:
    to_fp8(llama, tmp_path)
    name = "model.layers.1.mlp.up_proj.weight_scale_inv"
    stored = load_file(tmp_path / "model.safetensors")
    save_file(stored | {name: torch.ones(3, 3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"{name}: \(3, 3\) factors for a tensor of \(40, 32\)"):
        load_model(Reference(path=str(tmp_path)))
    del stored[name]
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj.weight: is F8_E4M3 and has no factors"):
        load_model(Reference(path=str(tmp_path)))


REFUSED = {
    "gptq": ({"bits": 4, "group_size": 128}, "quantised with gptq, which transformers cannot undo"),
    "awq": ({"bits": 4, "group_size": 128, "version": "gemm"}, "quantised with awq, which transformers cannot undo"),
    "compressed-tensors": ({"format": "pack-quantized", "config_groups": {}}, "pip install compressed-tensors"),
    "bitsandbytes": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "pip install bitsandbytes"),
    "hqq": ({"nbits": 4}, "quantised with hqq, which transformers cannot undo"),
    "something-new": ({}, "quantised with something-new, which transformers cannot undo"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_what_cannot_be_undone_is_refused_before_weights_are_looked_at(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    there = importlib.util.find_spec
    lacking = ("bitsandbytes", "compressed_tensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else there(name))
    fields, said = REFUSED[method]
    llama().save_pretrained(tmp_path / "reference")
    save_file({"none": torch.zeros(1)}, tmp_path / "reference" / "model.safetensors")
    mark(tmp_path / "reference", quant_method=method, **fields)
    reference = Reference(path=str(tmp_path / "reference"))
    for loads in (load_config, load_model):
        with pytest.raises(InputError) as caught:
            loads(reference)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        write(reference, inherit_settings(1), tmp_path / "target")
    assert [file.name for file in tmp_path.iterdir()] == ["reference"]


def test_the_tiny_checkpoints_are_quantised(tmp_path: Path) -> None:
    """Guards the yardstick: the files hold 8-bit numbers, not the plain ones."""
    to_fp8(llama, tmp_path)
    tensor = load_file(tmp_path / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert (tensor.dtype, tensor.shape) == (torch.float8_e4m3fn, (40, 32))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_bitsandbytes(bits: str, tmp_path: Path) -> None:
    """Near the plain weights (the method loses some), and what is inherited equals the dequantised reference."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    torch.manual_seed(1)
    config = LlamaConfig(**(PLAIN | {"hidden_size": 64}), intermediate_size=64)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    how = BitsAndBytesConfig(load_in_4bit=bits == "4bit", load_in_8bit=bits == "8bit")
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=how, dtype=torch.bfloat16)
    quantised.save_pretrained(tmp_path / "reference")
    check_against_the_whole(tmp_path, load_file(tmp_path / "plain" / "model.safetensors"), 0.05)


def test_compressed_tensors(tmp_path: Path) -> None:
    """FP8 with a factor per row, as llm-compressor writes it."""
    pytest.importorskip("compressed_tensors")
    folder = tmp_path / "reference"
    llama().to(torch.bfloat16).save_pretrained(folder)
    stored, meant = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored[name] = meant[name] = tensor
        if is_projection(name):
            factors = (tensor.float().abs().amax(1, keepdim=True) / 400).to(torch.bfloat16)
            stored |= {name: (tensor / factors).to(torch.float8_e4m3fn), f"{name}_scale": factors}
            meant[name] = stored[name].to(torch.bfloat16) * factors
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    eight = {"num_bits": 8, "type": "float", "symmetric": True}
    groups = {
        "weights": {**eight, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
        "targets": ["Linear"],
    }
    mark(
        folder,
        quant_method="compressed-tensors",
        format="float-quantized",
        quantization_status="compressed",
        ignore=["lm_head"],
        config_groups={"group_0": groups},
    )
    check_against_the_whole(tmp_path, meant, 0.0)


def check_against_the_whole(folder: Path, meant: dict[str, torch.Tensor], within: float) -> None:
    reference = Reference(path=str(folder / "reference"))
    whole = load_model(reference).state_dict()
    for name, tensor in meant.items():
        assert (whole[name].float() - tensor.float()).abs().max() <= within, name
    write(reference, inherit_settings(1), folder / "target")
    found = load_file(folder / "target" / "model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())
    assert "quantization_config" not in json.loads((folder / "target" / "config.json").read_text(encoding="utf-8"))
