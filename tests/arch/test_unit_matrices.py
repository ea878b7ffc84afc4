"""The matrices behind neurons and heads, the dimensions of channels, and the gains of norms, in real architectures."""

from typing import Any

import pytest
import torch
from forward import randomised
from tiny import tiny_config
from torch import nn
from transformers import AutoModelForCausalLM

from inheritune.arch import (
    UnitMatrix,
    build_skeleton,
    channel_dimensions,
    channel_norms,
    find_unit_matrices,
    gain_offset,
    head_groups,
    is_root_mean_square,
    scale_gain,
)
from inheritune.errors import InputError

NEURONS, HEADS = UnitMatrix("mlp.down_proj", 48, 1), UnitMatrix("self_attn.o_proj", 4, 8)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", {"neurons": NEURONS, "heads": HEADS}),
        ("gemma3_text", {"neurons": NEURONS, "heads": HEADS}),  # norms follow both
        ("olmo2", {"neurons": NEURONS, "heads": HEADS}),
        ("gpt2", {"neurons": UnitMatrix("mlp.c_proj", 48, 1)}),  # its heads are slices of the hidden size
        ("opt", {"neurons": UnitMatrix("fc2", 48, 1)}),
        ("mixtral", {"heads": HEADS}),  # many experts
        ("deepseek_v3", {"neurons": NEURONS, "heads": HEADS}),
    ],
)
def test_the_matrices_behind_neurons_and_heads(kind: str, expected: dict[str, UnitMatrix]) -> None:
    changes = {"n_inner": 48} if kind == "gpt2" else {"first_k_dense_replace": 3} if kind == "deepseek_v3" else {}
    assert find_unit_matrices(build_skeleton(tiny_config(kind, **changes)))[2] == expected


def test_channels_are_found_along_each_dimension() -> None:
    found = channel_dimensions(build_skeleton(tiny_config("mixtral")))
    block = "model.layers.1"
    assert found["model.embed_tokens.weight"] == (1,)
    assert found[f"{block}.self_attn.o_proj.weight"] == (0,)
    assert found[f"{block}.mlp.experts.gate_up_proj"] == (2,)
    assert found[f"{block}.mlp.experts.down_proj"] == (1,)
    assert found[f"{block}.mlp.gate.weight"] == (1,)
    with pytest.raises(InputError, match="gpt2: its heads are slices of its hidden size"):
        channel_dimensions(build_skeleton(tiny_config("gpt2")))


def test_heads_by_groups() -> None:
    assert head_groups(tiny_config("llama")) == (4, 2)
    assert head_groups(tiny_config("gpt2")) == (4, 4)


@pytest.mark.parametrize(("kind", "offset"), [("llama", 0.0), ("gemma3_text", 1.0), ("olmo2", 0.0)])
def test_gains_of_norms(kind: str, offset: float) -> None:
    torch.manual_seed(0)
    model = randomised(AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32))
    for norm in channel_norms(model).values():
        before: Any = norm.weight.detach().clone()  # type: ignore[operator]
        inputs_ND = torch.randn(5, len(before))
        output_ND = norm(inputs_ND)
        assert gain_offset(norm) == offset
        assert torch.equal(norm.weight, before)  # type: ignore[arg-type]
        assert is_root_mean_square(norm, offset)
        scale_gain(norm, 1.7, "norm")
        torch.testing.assert_close(norm(inputs_ND), 1.7 * output_ND)


def test_other_norms_are_told_apart() -> None:
    norm = nn.LayerNorm(16)
    nn.init.normal_(norm.bias)
    assert gain_offset(norm) == 0.0
    assert not is_root_mean_square(norm, 0.0)

    class Exponential(nn.RMSNorm):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.rms_norm(inputs, self.normalized_shape) * self.weight.exp()

    assert gain_offset(Exponential(16)) is None
    with pytest.raises(InputError, match=r"model.norm has no gain that its weight gives"):
        scale_gain(Exponential(16), 2.0, "model.norm")
