"""Whatever the shape of a model and the blocks that are wished for: what is written is what a slow slicing gives."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_families import randomised
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from conftest import stored_tensors
from inheritune.inheritance import inherit, inherit_settings, plan_for, select_blocks, write
from inheritune.recipe import Reference

_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def models(draw: st.DrawFn) -> PreTrainedModel:
    """A tiny random model: plain, with windows in some layers, with experts stored one by one, or GPT-2."""
    depth, groups, size = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 6]))
    heads = groups * draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["llama", "gemma3_text", "mixtral", "gpt2", "qwen2"]))
    fields: dict[str, Any] = {
        "vocab_size": draw(st.integers(8, 40)), "hidden_size": heads * size, "num_hidden_layers": depth,
        "num_attention_heads": heads, "tie_word_embeddings": draw(st.booleans()), "bos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 0,
    }  # fmt: skip
    if kind != "gpt2":
        fields |= {"num_key_value_heads": groups, "intermediate_size": draw(st.integers(1, 20)), "head_dim": size}
    if kind == "gemma3_text":
        fields["layer_types"] = draw(
            st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=depth, max_size=depth)
        )
    if kind == "mixtral":
        fields |= {"num_local_experts": draw(st.integers(1, 4)), "num_experts_per_tok": 1}
    if kind == "qwen2":
        fields |= {"use_sliding_window": True, "max_window_layers": draw(st.integers(0, depth)), "sliding_window": 4}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**fields), dtype=draw(st.sampled_from(_DTYPES)))
    return randomised(model, seed=draw(st.integers(0, 99)))


@st.composite
def wishes(draw: st.DrawFn, total: int) -> dict[str, Any]:
    if draw(st.booleans()):
        blocks = sorted(draw(st.sets(st.integers(0, total - 1), min_size=1)))
        return {"layers": blocks}
    choose = draw(st.sampled_from(["first", "last", "middle", "ends", "every", "stacked"]))
    count = draw(st.integers(1, total))
    return {"layers": 2 * count if choose == "stacked" else count, "choose": choose}


def sliced(tensors: dict[str, torch.Tensor], kept: list[int]) -> dict[str, torch.Tensor]:
    """The same by name alone: the first number in a stored name is its block's."""
    expected = {}
    for name, tensor in tensors.items():
        number = re.search(r"\.(\d+)\.", name)
        if number is None:
            expected[name] = tensor
            continue
        for place, block in enumerate(kept):
            if block == int(number[1]):
                expected[f"{name[: number.start()]}.{place}.{name[number.end() :]}"] = tensor
    return expected


@pytest.mark.long
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_files_memory_and_slow_slicing_agree(data: st.DataObject) -> None:
    model = data.draw(models())
    total = model.config.num_hidden_layers
    words = data.draw(wishes(total))
    kept = select_blocks(inherit_settings(**words).layers, words.get("choose", "first"), total)
    with tempfile.TemporaryDirectory() as place:
        reference, out = Path(place) / "reference", Path(place) / "out"
        model.save_pretrained(reference, max_shard_size=data.draw(st.sampled_from(["1KB", "5KB", "1GB"])))
        made = write(Reference(path=str(reference)), inherit_settings(**words), out)
        assert list(made.plan.kept) == kept
        assert [
            line.target for line in plan_for(Reference(path=str(reference)), inherit_settings(**words)).plan.lines
        ] == [line.target for line in made.plan.lines]
        expected, found = sliced(stored_tensors(reference), kept), stored_tensors(out)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name
        loaded, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not any(info.values())
        assert loaded.dtype == model.dtype
        in_memory = inherit(model, **words)
        apart = {"dtype": None, "architectures": None, "_name_or_path": None}
        assert loaded.config.to_dict() | apart == in_memory.config.to_dict() | apart
        names = loaded.state_dict()
        assert all(torch.equal(tensor, names[name]) for name, tensor in in_memory.state_dict().items())
        tied = in_memory.get_output_embeddings().weight is in_memory.get_input_embeddings().weight
        assert tied == bool(model.config.tie_word_embeddings)
