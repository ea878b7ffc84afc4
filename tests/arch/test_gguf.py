"""A .gguf file as llama.cpp writes one, made here from a tiny Llama, against the model that it was made from."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from inheritune.arch import check_tokenizer_fits, load_config, load_model, load_tokenizer, save_model
from inheritune.errors import InputError
from inheritune.inheritance import inherit
from inheritune.recipe import Reference

BYTES = sorted(ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ the"]
END = "<|endoftext|>"  # the name that transformers gives the end token of every tokenizer of this kind
TOKENS = [*BYTES, "th", "the", "Ġthe", END]

# What llama.cpp calls the tensors of a Llama.
OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def original() -> PreTrainedModel:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=5000.0,
        bos_token_id=TOKENS.index(END), eos_token_id=TOKENS.index(END),
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # norms that are ones and logits that are all small would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys in llama.cpp's order: a head's two halves, which rotate together, in turn."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama_cpp_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name in OUTSIDE:
        return f"{OUTSIDE[name]}.weight"
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{INSIDE[rest]}.weight"


def write(model: PreTrainedModel, file: Path, kind: Kind = Kind.F32) -> None:
    """Write a .gguf file; matrices are quantised as `kind`, norms stay float32."""
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token == END else 1 for token in TOKENS])  # 3: control, 1: normal
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index(END))
    writer.add_eos_token_id(TOKENS.index(END))
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = interleaved(values, heads)
        raw = kind if values.ndim > 1 else Kind.F32
        writer.add_tensor(llama_cpp_name(name), gguf.quantize(values, raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(model: PreTrainedModel, kind: Kind) -> PreTrainedModel:
    """`model` with its matrices as exact as `kind` keeps them; norms stay."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim > 1:
                tensor.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.numpy(), kind), kind)))
    return model


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    tokens_BT = torch.randint(0, len(TOKENS), (2, 12), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits: torch.Tensor = model(tokens_BT).logits
    return logits


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 file; no test may change it."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(original(), file)
    return file


def test_config_is_the_original_s(stored: Path) -> None:
    config = load_config(Reference(path=str(stored)))
    expected = original().config
    for name in (
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "eos_token_id",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(expected, name), name
    assert config.rope_parameters["rope_theta"] == 5000.0


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_0], ids=lambda kind: kind.name)
def test_logits_are_those_of_the_original_and_survive_saving(tmp_path: Path, kind: Kind) -> None:
    file = tmp_path / "tiny.gguf"
    write(original(), file, kind)
    expected = logits_of(rounded(original(), kind))
    loaded = load_model(Reference(path=str(file)))
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert loaded.config.name_or_path == str(file)
    torch.testing.assert_close(logits_of(loaded), expected, rtol=0, atol=1e-4)

    save_model(loaded, load_tokenizer(Reference(path=str(file))), tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    torch.testing.assert_close(logits_of(again), expected, rtol=0, atol=1e-4)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in saved
    assert "gguf" not in json.dumps(saved).replace("tiny.gguf", "")


def test_tokenizer_is_the_file_s_and_survives_saving(stored: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(Reference(path=str(stored)))
    assert tokenizer("the the", add_special_tokens=False)["input_ids"] == [TOKENS.index("the"), TOKENS.index("Ġthe")]
    text = f"thé, 3 thé\n{END}th"
    numbers = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert TOKENS.index(END) in numbers
    assert tokenizer.decode(numbers) == text
    assert tokenizer.eos_token == END
    assert len(tokenizer) == len(TOKENS)
    check_tokenizer_fits(tokenizer, load_config(Reference(path=str(stored))), "here")
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False)["input_ids"] == numbers


def test_inherits_like_any_other_reference(stored: Path, tmp_path: Path) -> None:
    target = inherit(stored, [1, 2], out=tmp_path / "small")
    whole = original().state_dict()
    for place, index in enumerate((1, 2)):
        name = "mlp.down_proj.weight"
        assert torch.equal(target.state_dict()[f"model.layers.{place}.{name}"], whole[f"model.layers.{index}.{name}"])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    torch.testing.assert_close(logits_of(again), logits_of(target), rtol=0, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) == len(TOKENS)


def refused(file: Path) -> str:
    for load in (load_config, load_model, load_tokenizer):
        with pytest.raises(InputError) as caught:
            load(Reference(path=str(file)))
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value)


@pytest.mark.parametrize("share", [0.999, 0.6, 0.1, 0.01], ids=lambda share: f"{share:.1%} left")
def test_a_file_cut_short(stored: Path, tmp_path: Path, share: float) -> None:
    """In the tensors, in the list of tokens, in the header."""
    file = Path(shutil.copy(stored, tmp_path))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged or cut short" in refused(file)


@pytest.mark.parametrize("content", [b"", b"GG", b"nothing of the kind"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    assert "not a GGUF file" in refused(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "tiny.gguf")


def test_a_file_got_again_is_looked_at_again(stored: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(stored, tmp_path))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    refused(file)
    file.write_bytes(whole)
    assert load_config(Reference(path=str(file))).num_hidden_layers == 3
