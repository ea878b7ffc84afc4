"""The best shape of a size: what is compared, that it keeps the size, and that the best one is taken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import inheritune
from conftest import read_json, tiny_recipe
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.inheritance.units.shapes import possible_shapes
from inheritune.recipe import Recipe, load_recipe


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in dict.fromkeys(model.parameters()))


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, **more,
    )  # fmt: skip


def test_every_shape_is_nearly_as_large_as_the_size_allows() -> None:
    with torch.device("meta"):
        whole = LlamaForCausalLM(config())
    most = parameters(whole) // 2
    shapes = possible_shapes(config(), most, lambda layers: list(range(layers)))
    assert len({(one.layers, one.heads, one.mlp) for one in shapes}) == len(shapes) > 3
    for one in shapes:
        sizes = {"num_hidden_layers": one.layers, "intermediate_size": one.mlp or 96, "head_dim": 8}
        heads = one.heads or 4
        small = LlamaConfig(
            **(config().to_dict() | sizes | {"num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2)})
        )
        with torch.device("meta"):
            assert one.parameters == parameters(LlamaForCausalLM(small)) <= most
        assert one.parameters > 0.85 * most
    assert shapes[0].mlp is None
    assert max(one.layers for one in shapes) > shapes[0].layers


def test_an_order_that_ends_where_the_size_is_kept_is_enough() -> None:
    with torch.device("meta"):
        most = parameters(LlamaForCausalLM(config())) // 2

    def blocks_of(layers: int) -> list[int]:
        if layers < 5:
            raise InputError("inherit.layers", "the order ends", "choose anew")
        return list(range(layers))

    assert possible_shapes(config(), most, blocks_of)[0].layers == 5


def test_a_size_below_one_block_is_refused() -> None:
    with pytest.raises(InputError, match="1,000 parameters, and one block with embeddings and head has"):
        possible_shapes(config(), 1000, lambda layers: list(range(layers)))


def test_from_python_and_from_the_command_line(
    reference_folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = parameters(AutoModelForCausalLM.from_pretrained(reference_folder))
    made = inheritune.inherit(reference_folder, size=0.7, text=text, out=tmp_path / "out")
    assert 0.5 * whole < parameters(made) <= 0.7 * whole
    shape = read_json(tmp_path / "out" / "inheritance.json")["shape"]
    best = shape["candidates"][shape["chosen"]]
    tried = [one["recovered"] for one in shape["candidates"] if one.get("recovered") is not None]
    assert best["recovered"] == min(tried)
    assert best["parameters"] == parameters(made)
    words = ["inherit", str(reference_folder), str(tmp_path / "again"), "--size", "0.7", "--text", str(text)]
    assert main(words) == 0
    assert "chosen" in capsys.readouterr().out
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in made.state_dict().items())
    deep = inheritune.inherit(reference_folder, size=0.7, shape="depth")
    assert deep.config.intermediate_size == 48
    assert parameters(deep) <= 0.7 * whole


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0.5, "layers": 2}, "size decides about layers"),
        ({"size": 0.5, "importance": "first"}, "without choose: stacked or importance: first"),
        ({"size": 0.5, "mlp": 20}, "size decides about mlp"),
        ({"size": 1.5}, "a fraction of the reference's parameters lies in"),
        ({"size": 0.5, "submodules": ["mlp"]}, "size goes with submodules: all"),
        ({"size": 0.5}, "shapes are compared on text, and there is none; give text, or set shape to depth"),
    ],
)
def test_sizes_that_cannot_be(reference_folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        inheritune.inherit(reference_folder, **settings)


def test_a_run_of_a_size(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(text, reference_folder) | {
        "inherit": {"size": 0.7, "choose": "auto", "calibration": "320 tokens"}
    }
    tree |= {"evaluate": {"analyze": False, "prompts": []}, "grow": None, "controls": ["random"]}
    summary = run(Recipe.model_validate(tree), tmp_path / "run")
    shape = read_json(tmp_path / "run" / "shape.json")
    best = shape["candidates"][shape["chosen"]]
    assert summary.result.parameters == best["parameters"] == summary.controls[0].parameters
    assert summary.result.layers == best["layers"]
    again = run(load_recipe(tmp_path / "run" / "recipe.yaml", saved=True), tmp_path / "run")
    assert again == summary
