"""float8: what is refused, which layers take part, and that training with rounded products stays near float32."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from inheritune.errors import InputError
from inheritune.training.float8 import check_float8, use_float8


def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=67, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, head_dim=10
    )
    return AutoModelForCausalLM.from_config(config)


def test_a_device_without_it_is_refused_in_a_line() -> None:
    with pytest.raises(InputError, match=r"train\.precision: float8, on cpu: only GPUs .* give bfloat16"):
        check_float8("cpu")


def test_layers_whose_sides_fit_take_part_and_the_loss_stays_near() -> None:
    pytest.importorskip("torchao", reason="torchao (extra float8) is not installed")
    model, tokens_BT = llama(), torch.randint(0, 67, (2, 16))
    names = [name for name, _ in model.named_parameters()]
    exact = model(input_ids=tokens_BT, labels=tokens_BT).loss
    assert use_float8(model.model.layers, emulate=True) == 2 * 3  # the MLP's; 4 heads of 10 are no multiple of 16
    assert [name for name, _ in model.named_parameters()] == names
    assert type(model.lm_head) is torch.nn.Linear
    rough = model(input_ids=tokens_BT, labels=tokens_BT).loss
    assert rough != exact
    assert rough.item() == pytest.approx(exact.item(), abs=0.02)
    rough.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
