"""Budgets in parameters and bytes against the parameters of models that are built."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import build
from transformers import AutoModelForCausalLM

import inheritune
from inheritune.errors import InputError
from inheritune.inheritance import keeps_budget, replace_budget
from inheritune.recipe import Inherit


def parameters(model: Any) -> int:
    """All parameters, a tied one once."""
    return sum(parameter.numel() for parameter in set(model.parameters()))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "deepseek_v3"])
def test_a_budget_is_the_parameters_of_the_target(kind: str) -> None:
    model = build(kind)
    for kept in ([0], [0, 3], [0, 1, 2, 3]):
        size = parameters(inheritune.inherit(model, kept))
        assert keeps_budget(model.config, Inherit(size=f"{size} parameters"), kept)
        assert not keeps_budget(model.config, Inherit(size=f"{size - 1} parameters"), kept)


@pytest.mark.parametrize("choose", ["first", "last", "middle", "ends", "every", "auto", "rank"])
def test_it_settles_on_the_most_blocks_that_keep_it(choose: Any) -> None:
    model = build("llama")
    sizes = [parameters(inheritune.inherit(model, count)) for count in (1, 2, 3, 4)]
    for count, size in enumerate(sizes, 1):
        for amount in (size, size + 1):
            spec = replace_budget(model.config, Inherit(size=f"{amount} parameters", choose=choose))
            assert (spec.layers, spec.choose) == (count, choose)
    assert replace_budget(model.config, Inherit(size="5B parameters", choose=choose)).layers == 4


def test_blocks_of_different_sizes_count_as_what_they_are() -> None:
    """The first two blocks of this one are dense, the others have experts: the last ones are larger."""
    model = build("deepseek_v3")
    first, last = (parameters(inheritune.inherit(model, kept)) for kept in ([0, 1], [2, 3]))
    assert first < last
    budget = f"{first} parameters"
    assert replace_budget(model.config, Inherit(size=budget, choose="first")).layers == 2
    assert replace_budget(model.config, Inherit(size=budget, choose="last")).layers == 1


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_references_dtype(dtype: torch.dtype, size: int) -> None:
    model = build("llama").to(dtype)
    model.config.dtype = dtype
    two = size * parameters(inheritune.inherit(model, 2))
    assert replace_budget(model.config, Inherit(size=f"{two / 1e6:.6f} MB")).layers == 2
    assert replace_budget(model.config, Inherit(size=f"{(two - 10) / 1e6:.6f} MB")).layers == 1
    assert replace_budget(model.config, Inherit(size=f"{math.ceil(two / 1000) / 1e6:.6f} GB")).layers == 2
    assert replace_budget(model.config, Inherit(size="1 GB")).layers == 4


def test_what_is_no_budget_stays_as_it_is() -> None:
    config = build("llama").config
    for layers in (2, 0.5, [0, 3]):
        spec = Inherit(layers=layers)
        assert replace_budget(config, spec) is spec


def test_a_budget_below_one_block_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"inherit\.size: 100 parameters, and one block with embeddings and head comes to more"
    ):
        replace_budget(build("llama").config, Inherit(size="100 parameters"))


def test_inherit_takes_a_budget_from_files_and_from_a_loaded_model(reference_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    budget = f"{parameters(inheritune.inherit(model, 2))} parameters"
    for reference in (model, reference_folder):
        assert inheritune.inherit(reference, choose="last", size=budget, shape="depth").config.num_hidden_layers == 2
