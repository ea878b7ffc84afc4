"""Targets of any shape, drawn at random, against masked references; what is read of files; experts in lists."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import logits_of, randomised, some_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masks import projected, without_experts, without_heads, without_neurons
from parity import logits_with
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from inheritune.arch import Selection, save_model
from inheritune.arch.stored import StoredTensor
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive
from inheritune.inheritance.derivation import open_source
from inheritune.recipe import Reference

HEADS, GROUPS, SIZE, HIDDEN, NEURONS, EXPERTS, BLOCKS = 6, 3, 8, 40, 48, 5, 3
_TOKENS = {"vocab_size": 67, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def mixtral(**fields: Any) -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(
        **{
            "hidden_size": HIDDEN, "intermediate_size": NEURONS, "num_hidden_layers": BLOCKS, "head_dim": SIZE,
            "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2, "max_position_embeddings": 64, **_TOKENS, **fields,
        }
    )  # fmt: skip
    return randomised(MixtralForCausalLM(config), scale=0.1)  # type: ignore[return-value]


def subsets(count: int, least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, count - 1), min_size=least).map(lambda chosen: tuple(sorted(chosen)))


_SHAPES = st.fixed_dictionaries(
    {
        "heads": st.none() | subsets(HEADS),
        "neurons": st.none() | subsets(NEURONS),
        "hidden": st.none() | subsets(HIDDEN),
        "experts": st.none() | subsets(EXPERTS),
        "head_size": st.none() | st.sampled_from([(0, 2, 4, 6), (0, 4), (0, 1, 4, 5), (0, 1)]),
    }
)


def expected_refusal(shape: dict[str, Any]) -> str:
    """Why a shape cannot be, by rules written down again; empty where it can."""
    heads = shape["heads"] or range(HEADS)
    members = [sum(head // 2 == group for head in heads) for group in range(GROUPS)]
    if len({count for count in members if count}) > 1:
        return "equally many of each group"
    if shape["experts"] is not None and len(shape["experts"]) < 2:
        return "select 2 to 5 experts"
    wide = [len(shape[name] or range(all_of)) for name, all_of in (("hidden", HIDDEN), ("neurons", NEURONS))]
    if any(width % 8 for width in wide):
        return "choose"
    return "legal are 2, 4 dimensions" if shape["head_size"] in ((0, 1, 4, 5), (0, 1)) else ""


@pytest.fixture(scope="module")
def reference() -> MixtralForCausalLM:
    return mixtral()


@pytest.mark.long
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(shape=_SHAPES, kept=st.sampled_from([(0, 1, 2), (0, 2), (1,)]))
def test_any_shape_is_the_masked_reference_or_refused_with_legal_values(
    reference: MixtralForCausalLM, shape: dict[str, Any], kept: tuple[int, ...]
) -> None:
    check_shape(reference, shape, kept)


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": (1, 2, 5), "neurons": tuple(range(0, 48, 3)), "hidden": tuple(range(16, 40)), "experts": (1, 4)},
        {"heads": (2, 3), "head_size": (0, 4), "experts": (0, 2, 3)},
        {"heads": (0, 1, 2)},
        {"experts": (1,)},
        {"hidden": tuple(range(25))},
        {"neurons": tuple(range(9))},
        {"head_size": (0, 1)},
    ],
    ids=["narrow", "small heads", "torn groups", "one expert", "odd hidden", "odd experts", "torn pairs"],
)
def test_some_shapes(reference: MixtralForCausalLM, shape: dict[str, Any]) -> None:
    check_shape(reference, dict.fromkeys(("heads", "neurons", "hidden", "experts", "head_size")) | shape, (0, 2))


def check_shape(reference: MixtralForCausalLM, shape: dict[str, Any], kept: tuple[int, ...]) -> None:
    spec, reason = TargetSpec(kept, width=Selection(**shape)), expected_refusal(shape)
    if reason:
        with pytest.raises(InputError, match=reason):
            derive(reference, spec)
        return
    target, _ = derive(reference, spec)
    whole, tokens_BT = "model.layers", some_tokens()
    model = reference if shape["hidden"] is None else projected(reference, HIDDEN, list(shape["hidden"]))
    heads, size = list(shape["heads"] or range(HEADS)), shape["head_size"]
    neurons, experts = shape["neurons"] or range(NEURONS), shape["experts"] or range(EXPERTS)
    with (
        without_heads(model, whole, HEADS, heads, None if size is None else list(size)),
        without_neurons(model, whole, HIDDEN, lambda _: list(neurons)),
        without_experts(model, whole, EXPERTS, list(experts)),
    ):
        expected = logits_with(model, list(kept), tokens_BT)
    torch.testing.assert_close(logits_of(target, tokens_BT), expected, rtol=0, atol=1e-5)


def test_every_block_without_heads_neurons_and_experts_of_its_own(reference: MixtralForCausalLM) -> None:
    heads, experts = ((0, 1, 4, 5), (2, 3, 4, 5)), ((0, 1, 4), (1, 2, 3))
    neurons = (tuple(range(0, 48, 3)), tuple(range(1, 33, 2)))
    width = Selection(heads=heads, neurons=neurons, experts=experts)
    target, _ = derive(reference, TargetSpec((0, 2), width=width))
    with ExitStack() as hooks:
        for place, block in enumerate((0, 2)):
            name = f"model.layers.{block}"
            hooks.enter_context(without_heads(reference, name, HEADS, list(heads[place])))
            hooks.enter_context(without_neurons(reference, name, HIDDEN, lambda _, own=neurons[place]: list(own)))
            hooks.enter_context(without_experts(reference, name, EXPERTS, list(experts[place])))
        expected = logits_with(reference, [0, 2], some_tokens())
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is read of safetensors files: of parts by each call, of whole tensors at once."""
    sizes: list[int] = []
    read_part, open_tensor = os.preadv, StoredTensor.lazy

    def counted(*given: Any) -> int:
        sizes.append(read_part(*given))
        return sizes[-1]

    def opened(tensor: StoredTensor, files: Any, indices: Any) -> Any:
        sizes.append(tensor.bytes if indices is None else 0)
        return open_tensor(tensor, files, indices)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(StoredTensor, "lazy", opened)
    return sizes


@pytest.mark.parametrize(
    ("width", "most"),
    [
        (Selection(experts=(0, 3, 5, 6)), 1.1),
        (Selection(heads=(0, 1, 6, 7), experts=(2, 7)), 1.1),
        (Selection(neurons=tuple(range(0, 256, 8)), heads=(1, 3, 5, 7), hidden=tuple(range(64, 192))), 2.4),  # columns
        (Selection(head_size=tuple(range(0, 32, 2))), 1.1),
    ],
    ids=["experts", "heads and experts", "narrow", "half of each head"],
)
def test_what_is_read_of_files_is_what_the_target_has(
    width: Selection, most: float, reads: list[int], tmp_path: Path
) -> None:
    model = mixtral(
        hidden_size=256,
        intermediate_size=256,
        head_dim=32,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=8,
    )
    save_model(model, None, tmp_path / "reference")
    spec = TargetSpec((0, 2), width=width)
    source = open_source(Reference(path=str(tmp_path / "reference")), spec)
    assert not reads
    target = source.build(seed=1)
    size = sum(tensor.numel() * tensor.element_size() for tensor in target.parameters())
    assert size <= sum(reads) <= most * size
    here = derive(model, spec)[0].state_dict()
    assert all(torch.equal(tensor, here[name]) for name, tensor in target.state_dict().items())


CODE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class ListConfig(LlamaConfig):
    model_type = "list-llama"


class Mixture(nn.Module):
    def __init__(self, config):
        super().__init__()
        wide, narrow = config.hidden_size, config.intermediate_size
        self.gate = nn.Linear(wide, config.num_experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), nn.Linear(narrow, wide)) for _ in range(config.num_experts)
        )

    def forward(self, hidden_BTD):
        weights, chosen = self.gate(hidden_BTD).softmax(-1).topk(2)
        made = torch.stack([expert(hidden_BTD) for expert in self.experts], -2)
        taken = made.gather(-2, chosen[..., None].expand(*chosen.shape, made.shape[-1]))
        return (taken * weights[..., None]).sum(-2)


class ListForCausalLM(LlamaForCausalLM):
    config_class = ListConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = Mixture(config)
"""


def test_experts_that_are_modules_in_a_list(tmp_path: Path) -> None:
    """Code from the hub has them: another expert is another name, and each block may keep others."""
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "lists.py").write_text(CODE, encoding="utf-8")
    fields = {
        "model_type": "list-llama", "architectures": ["ListForCausalLM"], "hidden_size": 32, "intermediate_size": 16,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2,
        "auto_map": {"AutoConfig": "lists.ListConfig", "AutoModelForCausalLM": "lists.ListForCausalLM"}, **_TOKENS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    reference = randomised(AutoModelForCausalLM.from_config(config, trust_remote_code=True), scale=0.1)
    save_file(reference.state_dict(), folder / "model.safetensors", {"format": "pt"})
    each = ((0, 2, 3), (1, 2, 3))
    spec = TargetSpec((0, 2), width=Selection(experts=each))
    target, plan = derive(reference, spec)
    tensors, source = target.state_dict(), reference.state_dict()
    for place, (block, kept) in enumerate(zip((0, 2), each, strict=True)):
        before, after = f"model.layers.{block}.mlp", f"model.layers.{place}.mlp"
        assert torch.equal(tensors[f"{after}.gate.bias"], source[f"{before}.gate.bias"][list(kept)])
        for number, expert in enumerate(kept):
            name = f"{after}.experts.{number}.0.weight"
            assert torch.equal(tensors[name], source[f"{before}.experts.{expert}.0.weight"])
    assert "model.layers.2.mlp.experts.0.0.weight" in plan.dropped
    read, _ = derive(Reference(path=str(folder), trust_remote_code=True), spec)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in read.state_dict().items())
    alike, _ = derive(reference, TargetSpec((0, 1, 2), width=Selection(experts=(1, 3))))
    with without_experts(reference, "model.layers", 4, [1, 3]):
        expected = logits_of(reference, some_tokens())
    torch.testing.assert_close(logits_of(alike, some_tokens()), expected, rtol=0, atol=1e-5)
