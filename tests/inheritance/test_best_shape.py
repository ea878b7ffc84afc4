"""The best shape of a size: what is compared, that it keeps the size, and that the best one is taken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import build
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import inheritune
from conftest import read_json, tiny_recipe
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.inheritance.units.forms import ShapeSearch
from inheritune.inheritance.units.speed import Pace
from inheritune.recipe import Inherit, Recipe, load_recipe
from inheritune.results import MeasuredSpeed, ShapeChoice


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in dict.fromkeys(model.parameters()))


def config(**more: Any) -> LlamaConfig:
    sizes = {"num_hidden_layers": 12} | more
    return LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, **sizes
    )


def search(most: int, blocks_of: Any = range, **spec: Any) -> ShapeSearch:
    """A search among shapes of the config, by size alone."""
    asked = Inherit(size=f"{most} parameters", **spec)
    return ShapeSearch(asked, config(), config(), Pace(config(), "cpu"), lambda layers: tuple(blocks_of(layers)))


def half() -> int:
    with torch.device("meta"):
        return parameters(LlamaForCausalLM(config())) // 2


def test_every_shape_is_nearly_as_large_as_the_size_allows() -> None:
    most = half()
    found = search(most)
    shapes = found.every(found.deepest())
    assert len(set(shapes)) == len(shapes)
    assert {tuple(shape.numbers) for shape in shapes} == {(), ("mlp",), ("heads", "mlp"), ("mlp", "hidden")}
    for one in shapes:
        sizes = {"num_hidden_layers": one.layers, "intermediate_size": one.mlp or 96, "head_dim": 8}
        sizes |= {"num_attention_heads": one.heads or 4, "num_key_value_heads": (one.heads or 4) // 2 or 1}
        with torch.device("meta"):
            small = LlamaForCausalLM(LlamaConfig(**(config().to_dict() | sizes | {"hidden_size": one.hidden or 32})))
        assert found.candidate(one).parameters == parameters(small) <= most
        assert parameters(small) > 0.85 * most
    assert not shapes[0].numbers
    assert max(one.layers for one in shapes) > shapes[0].layers
    assert not any("hidden" in one.numbers for one in found.every(found.deepest(), keeps_hidden=True))


def test_an_axis_that_is_given_is_not_tried_and_leaves_more_to_the_others() -> None:
    free, given = (search(half(), **spec) for spec in ({}, {"hidden": 24}))
    assert given.deepest().layers > free.deepest().layers
    assert all("hidden" not in one.numbers for one in given.every(given.deepest()))
    assert given.target(given.deepest()).hidden_size == 24


def test_of_a_model_without_heads_and_mlps_only_blocks_are_tried() -> None:
    of = build("mamba").config
    found = ShapeSearch(Inherit(size=0.7), of, of, Pace(of, "cpu"), lambda layers: tuple(range(layers)))
    deepest = found.deepest()
    assert 0 < deepest.layers < of.num_hidden_layers
    assert found.every(deepest) == [deepest]


def test_a_size_below_one_block_is_refused() -> None:
    with pytest.raises(InputError, match=r"inherit\.size: 1K parameters, and one block with embeddings and head comes"):
        search(1000).deepest()


class FakePace(Pace):
    """Speeds by a formula: a block costs 1, its MLP as much again, all else 2."""

    def __init__(self) -> None:
        super().__init__(config(), "cpu")
        self.asked = list[Any]()

    def measure(self, config: Any, work: Any, times: float | None = None) -> MeasuredSpeed:
        self.asked.append(work)
        ratio = 26 / cost(config.num_hidden_layers, config.intermediate_size)
        return MeasuredSpeed(rate=ratio, times=ratio, lowest=ratio, highest=ratio)


def cost(layers: int, mlp: int) -> float:
    return 2 + layers * (1 + mlp / 96)


@pytest.mark.parametrize("work", ["generation", "training"])
def test_as_deep_and_as_wide_as_a_measured_speed_allows(work: str) -> None:
    spec, pace = Inherit(speed=f"2x {work}"), FakePace()
    found = ShapeSearch(spec, config(), config(), pace, lambda layers: tuple(range(layers)))
    deepest = found.deepest()
    assert deepest.layers == max(layers for layers in range(1, 13) if 26 / cost(layers, 96) >= 2)
    shapes = found.every(deepest, keeps_hidden=True)
    assert len(shapes) > 3
    for one in shapes[1:]:
        widest = max(mlp for mlp in range(8, 97, 8) if 26 / cost(one.layers, mlp) >= 2)
        assert one.mlp in (widest, widest - 8)  # 5 % of a speed are left, as measurements cannot tell
        assert 26 / cost(one.layers, one.mlp) >= 2
    assert set(pace.asked) == {work}
    assert len(pace.asked) < 5 * len(shapes)


def test_size_and_speed_are_both_kept() -> None:
    spec = Inherit(speed="1.2x", size=f"{half()} parameters")
    found = ShapeSearch(spec, config(), config(), FakePace(), lambda layers: tuple(range(layers)))
    assert found.deepest() == search(half()).deepest()  # the size is the narrower limit


def test_a_speed_that_no_block_reaches_is_refused() -> None:
    found = ShapeSearch(Inherit(speed="100x"), config(), config(), FakePace(), lambda layers: tuple(range(layers)))
    with pytest.raises(
        InputError, match=r"inherit\.speed: 100x generation, and one block is not so fast; ask for less"
    ):
        found.deepest()


@pytest.mark.parametrize("work", ["generation", "training"])
def test_a_sixth_of_the_blocks_is_measured_to_be_faster(work: Any) -> None:
    found = Pace(config(), "cpu").measure(config(num_hidden_layers=2), work)
    assert found.lowest <= found.times <= found.highest
    assert found.times > 1.5
    assert found.rate > 0


def test_generation_without_a_cache_is_refused_by_name() -> None:
    model = build("mamba")
    with pytest.raises(InputError, match="keeps no past_key_values, so its generation cannot be measured; ask for"):
        Pace(model.config, "cpu").measure(model.config, "generation")


@pytest.mark.long
def test_from_python_and_from_the_command_line(
    reference_folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = parameters(AutoModelForCausalLM.from_pretrained(reference_folder))
    made = inheritune.inherit(reference_folder, size=0.7, text=text, refit="640 tokens", out=tmp_path / "out")
    assert 0.5 * whole < parameters(made) <= 0.7 * whole
    shape = read_json(tmp_path / "out" / "inheritance.json")["shape"]
    best = shape["candidates"][shape["chosen"]]
    assert (shape["tokens"], shape["held_out"]) == (7 * 64, 3 * 64)
    tried = [one["recovered"] for one in shape["candidates"] if one.get("recovered") is not None]
    assert best["recovered"] == min(tried)
    assert best["parameters"] == parameters(made)
    words = ["inherit", str(reference_folder), str(tmp_path / "again"), "--size", "0.7", "--text", str(text)]
    assert main([*words, "--refit", "640 tokens"]) == 0
    assert "chosen" in capsys.readouterr().out
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in made.state_dict().items())
    deep = inheritune.inherit(reference_folder, size=0.7, shape="depth")
    assert deep.config.intermediate_size == 48
    assert parameters(deep) <= 0.7 * whole


@pytest.mark.long
def test_a_speed_from_python(reference_folder: Path, text: Path, tmp_path: Path) -> None:
    """Weights, speeds, table and card of what was measured; fewer tokens leave more of a size to the blocks."""
    inheritune.inherit(reference_folder, speed="1.3x training", shape="depth", out=tmp_path / "deep")
    shape = ShapeChoice.model_validate(read_json(tmp_path / "deep" / "inheritance.json")["shape"])
    assert (shape.speed, len(shape.candidates), shape.tokens) == ("1.3x training", 1, 0)
    assert shape.best.training is not None
    assert shape.best.training.times >= 1.3
    words = ["inherit", str(reference_folder), str(tmp_path / "measured"), "--speed", "1.3x training"]
    words += ["--choose", "influence", "--shape", "depth", "--calibration", "64 tokens", "--text", str(text)]
    assert main(words) == 0
    for name in ("deep", "measured"):
        assert "times as fast" in (tmp_path / name / "README.md").read_text(encoding="utf-8")
    whole = AutoModelForCausalLM.from_pretrained(reference_folder)
    size = f"{parameters(inheritune.inherit(reference_folder, 3)) - 1} parameters"
    options: Any = {"size": size, "shape": "depth", "text": text, "refit": "none"}
    deep = inheritune.inherit(reference_folder, vocabulary=whole.config.vocab_size - 1, **options)
    assert (deep.config.num_hidden_layers, deep.config.vocab_size) == (3, whole.config.vocab_size - 1)
    assert inheritune.inherit(reference_folder, **options).config.num_hidden_layers == 2
    compared = {"size": 0.8, "vocabulary": 270, "text": text, "refit": "640 tokens", "out": tmp_path / "auto"}
    found = inheritune.inherit(reference_folder, **compared)
    assert (found.config.vocab_size, parameters(found) <= 0.8 * parameters(whole)) == (270, True)
    shape = ShapeChoice.model_validate(read_json(tmp_path / "auto" / "inheritance.json")["shape"])
    assert shape.best.parameters == parameters(found)
    assert shape.reference is not None
    assert shape.reference.parameters == parameters(whole)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0.5, "layers": 2}, "size decides about layers"),
        ({"size": 0.5, "importance": "first"}, "without choose: stacked or importance: first"),
        ({"size": 0.5, "mlp": 20}, "size decides about mlp"),
        ({"size": 1.5}, "a fraction of the reference's parameters lies in"),
        ({"layers": "80M parameters"}, "write size: 80M parameters and shape: depth in place of layers"),
        ({"speed": "2x", "layers": 2}, "speed decides about layers; give one or the other"),
        ({"speed": "2x", "size": 0.5, "heads": 2}, "size and speed decides about heads"),
        ({"speed": "2x", "choose": "auto"}, "it looks at the model at work on text, and there is none here"),
        ({"speed": "2"}, "'2' is not a speed; legal are 2x"),
        ({"speed": "1x"}, "more than 1 and at most 1000 times as fast"),
        ({"speed": "2x evaluation"}, "names no work that is measured; legal are 2x"),
        ({"speed": "2x"}, "shapes are compared on text, and there is none; give text, or set shape to depth"),
        ({"size": 0.5, "submodules": ["mlp"]}, "size goes with submodules: all"),
        ({"size": 0.5}, "shapes are compared on text, and there is none; give text, or set shape to depth"),
    ],
)
def test_sizes_that_cannot_be(reference_folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        inheritune.inherit(reference_folder, **settings)


@pytest.mark.long
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
