"""What a .gguf file says of a model beyond its matrices, against the logits of the model that it was made from.

The files are written as llama.cpp's converter writes them: its key names, its tensor names, its order of rows.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from test_gguf import END, MERGES, TOKENS, interleaved
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from inheritune.arch import load_config, load_model
from inheritune.errors import InputError
from inheritune.inheritance import inherit
from inheritune.recipe import Reference

LENGTH = 600  # positions, far beyond the original length of the scaled models here
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = HEADS | {
    "vocab_size": len(TOKENS), "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
    "max_position_embeddings": 1024, "bos_token_id": TOKENS.index(END), "eos_token_id": TOKENS.index(END),
    "pad_token_id": None, "initializer_range": 0.2,
}  # fmt: skip

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"factor": 8.0, "original_max_position_embeddings": 128}


def made(kind: str, **fields: Any) -> PreTrainedModel:
    """A tiny model in which norms and biases say something."""
    torch.manual_seed(2)
    config = AutoConfig.for_model(kind, **SIZES | fields)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def rope(kind: str, theta: float = 10_000.0, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta} | fields}


def keys_of(config: Any) -> dict[str, Any]:
    """The keys that every converter writes."""
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", 1e-6),
        "vocab_size": config.vocab_size,
    }


def write(
    model: PreTrainedModel, file: Path, keys: Mapping[str, Any], extra: Mapping[str, torch.Tensor] | None = None,
    leave_out: str = "nothing",
) -> Path:  # fmt: skip
    """Write the model as llama.cpp has it, with these keys besides the usual and tensors of these names."""
    config = model.config
    name = config.model_type.removesuffix("_text")
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(str(file), name)
    for key, value in (keys_of(config) | dict(keys)).items():
        if value is None:
            continue
        add: Callable[[str, Any], None] = {
            bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
            list: writer.add_array,
        }[type(value)]  # fmt: skip
        add(key if key.startswith(("general.", "split.", "imatrix.")) else f"{name}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index(END))
    writer.add_eos_token_id(TOKENS.index(END))
    for hf, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if (hf == "lm_head.weight" and config.tie_word_embeddings) or leave_out in hf:
            continue
        stem, _, suffix = hf.rpartition(".")
        if name == "llama" and ("q_proj" in hf or "k_proj" in hf):
            heads = config.num_attention_heads if "q_proj" in hf else config.num_key_value_heads
            values = interleaved(values.reshape(len(values), -1), heads).reshape(values.shape)
        if name.startswith("gemma") and "norm" in hf:
            values = values + 1
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", values)
    for key, tensor in (extra or {}).items():
        writer.add_tensor(key, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def llama3_divisors(theta: float, size: int, factor: float, low: float, high: float, length: int) -> torch.Tensor:
    """As the converter computes them: a loop over the frequencies."""
    found = []
    for frequency in 1.0 / (theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)):
        wave = 2 * math.pi / float(frequency)
        if wave < length / high:
            found.append(1.0)
        elif wave > length / low:
            found.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found)


def logits_of(model: PreTrainedModel, length: int = LENGTH) -> torch.Tensor:
    tokens_BT = torch.randint(0, len(TOKENS), (1, length), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found: torch.Tensor = model(tokens_BT, use_cache=False).logits
    return found


def check_same(file: Path, model: PreTrainedModel, out: Path, length: int = LENGTH) -> None:
    """Logits of the loaded model, of one inherited whole, and of that one saved and loaded by plain transformers."""
    expected = logits_of(model, length)
    plain = logits_of(load_model(Reference(path=str(file))), length)
    torch.testing.assert_close(plain, expected, rtol=0, atol=2e-4)
    target = inherit(file, "all", out=out)
    torch.testing.assert_close(logits_of(target, length), expected, rtol=0, atol=2e-4)
    again = AutoModelForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(logits_of(again, length), expected, rtol=0, atol=2e-4)


SCALED = {
    "linear": (rope("linear", factor=4.0), {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "linear, without a type": (rope("linear", factor=4.0), {"rope.scaling.factor": 4.0}),
    "linear, as in old files": (rope("linear", factor=4.0), {"rope.scale_linear": 4.0}),
    "none": (rope("default"), {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}),
    "yarn": (
        rope(**{"kind": "yarn"} | {name: value for name, value in YARN.items() if name != "rope_type"}),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128},
    ),
    "yarn with all its settings": (
        rope("yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0,
             attention_factor=1.3),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 64,
         "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.yarn_ext_factor": 1.0,
         "rope.scaling.yarn_attn_factor": 1.3},
    ),
    "yarn with mscale": (
        rope("yarn", factor=8.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.5),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 64,
         "rope.scaling.yarn_log_multiplier": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("scaling", SCALED)
def test_scaling_by_keys(tmp_path: Path, kind: str, scaling: str) -> None:
    fields, keys = SCALED[scaling]
    model = made(kind, **fields, **({"head_dim": 16} if kind == "qwen3" else {}))
    size = {"rope.dimension_count": 16, "attention.key_length": 16, "attention.value_length": 16}
    file = write(model, tmp_path / "a.gguf", {"rope.freq_base": 10_000.0} | size | keys)
    check_same(file, model, tmp_path / "out")


RULES = [(8.0, 1.0, 4.0, 128), (32.0, 1.0, 4.0, 256), (4.0, 1.0, 3.0, 100), (8.0, 1.0, 4.0, 8192), (6.0, 1.5, 4.5, 192)]


@pytest.mark.parametrize(("factor", "low", "high", "length"), RULES)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_llama3(tmp_path: Path, factor: float, low: float, high: float, length: int, theta: float) -> None:
    """The file has the divisors alone, and none of the rule's parameters."""
    rule = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    model = made("llama", head_dim=32, **rope("llama3", theta, **rule, original_max_position_embeddings=length))
    divisors = llama3_divisors(theta, 32, factor, low, high, length)
    keys = {"rope.freq_base": theta, "rope.dimension_count": 32, "attention.key_length": 32}
    file = write(model, tmp_path / "a.gguf", keys, {"rope_freqs.weight": divisors})
    check_same(file, model, tmp_path / "out")


def test_the_published_rule_is_found_to_the_digit(tmp_path: Path) -> None:
    """Llama 3.2: with its parameters the config is the original one, and so are all bits."""
    rule = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = made("llama", head_dim=64, **rope("llama3", 500_000.0, **rule))
    divisors = llama3_divisors(500_000.0, 64, 32.0, 1.0, 4.0, 8192)
    keys = {"rope.freq_base": 500_000.0, "rope.dimension_count": 64, "attention.key_length": 64}
    file = write(model, tmp_path / "a.gguf", keys | {"context_length": 131_072}, {"rope_freqs.weight": divisors})
    found = load_config(Reference(path=str(file))).rope_parameters
    assert found == {"rope_type": "llama3", "rope_theta": 500_000.0} | rule


def test_divisors_of_no_rule(tmp_path: Path) -> None:
    """Then each frequency keeps its own."""
    divisors = torch.rand(8, generator=torch.Generator().manual_seed(1)) * 5 + 1
    each = {"short_factor": divisors.tolist(), "long_factor": divisors.tolist(), "attention_factor": 1.0}
    model = made("llama", **rope("longrope", **each, original_max_position_embeddings=128))
    file = write(model, tmp_path / "a.gguf", {"rope.dimension_count": 16}, {"rope_freqs.weight": divisors})
    check_same(file, model, tmp_path / "out")


@pytest.mark.parametrize("length", [100, 600], ids=["short", "long"])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_long_and_short_factors(tmp_path: Path, length: int, part: float) -> None:
    """Phi-3 and Phi-4 mini."""
    count = int(8 * part)
    short, long = (torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 5 + 1 for seed in (1, 2))
    scaling = {"short_factor": short.tolist(), "long_factor": long.tolist(), "partial_rotary_factor": part}
    model = made("phi3", original_max_position_embeddings=128, **rope("longrope", **scaling))
    keys = {
        "rope.freq_base": 10_000.0, "rope.dimension_count": 2 * count, "rope.scaling.original_context_length": 128,
        "rope.scaling.attn_factor": math.sqrt(1 + math.log(1024 / 128) / math.log(128)), "attention.sliding_window": 0,
    }  # fmt: skip
    extra = {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    check_same(write(model, tmp_path / "a.gguf", keys, extra), model, tmp_path / "out", length)


@pytest.mark.parametrize("local", [10_000.0, 500.0])
def test_gemma3_scales_its_global_layers_alone(tmp_path: Path, local: float) -> None:
    layers = ["sliding_attention", "full_attention"]
    whole = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    parameters = {"full_attention": whole, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    model = made(
        "gemma3_text", head_dim=16, query_pre_attn_scalar=16, sliding_window=64, layer_types=layers,
        rope_parameters=parameters, final_logit_softcapping=5.0,
    )  # fmt: skip
    keys = {
        "rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "attention.key_length": 16,
        "attention.value_length": 16, "attention.sliding_window": 64, "final_logit_softcapping": 5.0,
        "attention.sliding_window_pattern": [True, False],
    }  # fmt: skip
    if local != 10_000.0:
        keys["rope.freq_base_swa"] = local
    check_same(write(model, tmp_path / "a.gguf", keys), model, tmp_path / "out")


def test_gemma2_with_its_softcaps(tmp_path: Path) -> None:
    model = made(
        "gemma2", head_dim=16, query_pre_attn_scalar=16, sliding_window=64, attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0,
    )  # fmt: skip
    keys = {
        "attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 64,
        "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0,
    }  # fmt: skip
    check_same(write(model, tmp_path / "a.gguf", keys), model, tmp_path / "out")


@pytest.mark.parametrize(
    "fields", [{"attention_bias": True}, {"mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_biases_of_a_llama(tmp_path: Path, fields: dict[str, bool]) -> None:
    model = made("llama", **fields)
    check_same(write(model, tmp_path / "a.gguf", {}), model, tmp_path / "out")


def test_biases_of_which_some_are_not_stored(tmp_path: Path) -> None:
    """A bias that is not there is zero."""
    model = made("llama", attention_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("o_proj.bias"):
                parameter.zero_()
    check_same(write(model, tmp_path / "a.gguf", {}, leave_out="o_proj.bias"), model, tmp_path / "out")


def test_a_window_and_a_base_that_transformers_does_not_read(tmp_path: Path) -> None:
    model = made("starcoder2", norm_epsilon=1e-3, **rope("default", 777.0))
    keys = {"rope.freq_base": 777.0, "attention.layer_norm_epsilon": 1e-3, "attention.layer_norm_rms_epsilon": None}
    check_same(write(model, tmp_path / "a.gguf", keys), model, tmp_path / "out")


def test_more_positions_than_usual(tmp_path: Path) -> None:
    model = made("gpt2", max_position_embeddings=1500, n_inner=100, layer_norm_epsilon=1e-3)
    keys = {
        "attention.layer_norm_epsilon": 1e-3, "attention.layer_norm_rms_epsilon": None, "feed_forward_length": 100,
        "attention.head_count_kv": None,
    }  # fmt: skip
    file = write_gpt2(model, tmp_path / "a.gguf", keys)
    check_same(file, model, tmp_path / "out", 1400)


def write_gpt2(model: PreTrainedModel, file: Path, keys: Mapping[str, Any]) -> Path:
    """GPT-2's matrices are transposed by the converter."""
    turned = {
        name: tensor.T.contiguous() if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor
        for name, tensor in model.state_dict().items()
    }

    class Turned:
        config = model.config

        def state_dict(self) -> dict[str, torch.Tensor]:
            return turned

    return write(Turned(), file, keys)  # type: ignore[arg-type]


def refused(file: Path) -> str:
    """The line that each way of reading the file ends with."""
    said = []
    for load in (load_config, load_model, lambda reference: inherit(reference, 1)):
        with pytest.raises(InputError) as caught:
            load(Reference(path=str(file)))
        said.append(str(caught.value))
    assert len(set(said)) == 1
    assert "\n" not in said[0]
    assert said[0].startswith(f"{file}: ")
    assert said[0].endswith(("give the checkpoint that the file was made from", "llama-gguf-split --merge"))
    return said[0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"attention.clamp_kqv": 8.0}, "llama.attention.clamp_kqv: is 8"),
    ({"attention.scale": 0.3}, "llama.attention.scale: is 0.3"),
    ({"attention.sliding_window": 64}, "llama.attention.sliding_window: is 64"),
    ({"attn_logit_softcapping": 30.0}, "llama.attn_logit_softcapping: is 30"),
    ({"final_logit_softcapping": 30.0}, "llama.final_logit_softcapping: is 30"),
    ({"logit_scale": 0.5}, "llama.logit_scale: is 0.5"),
    ({"residual_scale": 0.5}, "llama.residual_scale: is 0.5"),
    ({"expert_count": 4, "expert_used_count": 2}, "llama.expert_count: is 4"),
    ({"attention.value_length": 8}, "llama.attention.value_length: is 8"),
    ({"rope.dimension_count": 8, "attention.key_length": 16}, "llama.rope.dimension_count: is 8"),
    ({"rope.scaling.type": "spiral", "rope.scaling.factor": 2.0}, "llama.rope.scaling.type: is 'spiral'"),
    ({"rope.scaling.type": "longrope"}, "llama.rope.scaling.type: is longrope, but there is no"),
    ({"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_ext_factor": 0.5},
     "llama.rope.scaling.yarn_ext_factor: is 0.5"),
    ({"rope.freq_base_swa": 77.0}, "llama.rope.freq_base_swa: is 77"),
    ({"rope.dimension_sections": [4, 2, 2, 0]}, "llama.rope.dimension_sections: is [4, 2, 2, 0]"),
    ({"something.of.tomorrow": 3}, "llama.something.of.tomorrow: is 3"),
    ({"split.count": 2}, "one of 2 files that make a model together"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), REFUSED, ids=[next(iter(keys)) for keys, _ in REFUSED])
def test_keys_that_would_be_ignored_are_refused(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    assert said in refused(write(made("llama"), tmp_path / "a.gguf", keys))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_q_norm.weight", (16,)),
        ("blk.1.attn_sinks.weight", (4,)),
        ("blk.1.ffn_gate_exps.weight", (2, 48, 64)),
        ("blk.2.attn_q.weight", (64, 64)),
        ("blk.0.attn_q.weight.lora_a", (64, 4)),
        ("something.weight", (3,)),
        ("rope_factors_long.weight", (8,)),
    ],
)
def test_tensors_that_would_be_ignored_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    assert name.split("_long")[0] in refused(write(made("llama"), tmp_path / "a.gguf", {}, {name: torch.ones(shape)}))


def test_a_wrong_number_of_divisors(tmp_path: Path) -> None:
    file = write(made("llama"), tmp_path / "a.gguf", {}, {"rope_freqs.weight": torch.ones(5)})
    assert "rope_freqs.weight: has 5 numbers, but there are 8 rotary frequencies" in refused(file)


def test_what_says_nothing_is_no_matter(tmp_path: Path) -> None:
    keys = {
        "attention.clamp_kqv": 0.0, "logit_scale": 1.0, "expert_count": 0, "tensor_data_layout": "Meta AI original pth",
        "rope.scaling.finetuned": True, "attention.causal": True, "general.file_type": 0, "imatrix.chunk_count": 3,
        "rope.scaling.type": "none", "general.something.new": "x",
    }  # fmt: skip
    frequencies = 1 / 10_000 ** (torch.arange(0, 16, 2) / 16)
    model = made("llama")
    file = write(model, tmp_path / "a.gguf", keys, {"blk.0.attn_rot_embd.weight": frequencies})
    check_same(file, model, tmp_path / "out")
