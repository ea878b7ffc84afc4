"""`bench` on a tiny shape: its figures against each other, and against counts made another way."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from conftest import tiny_recipe
from inheritune import runtime
from inheritune.arch import training_flops_per_token
from inheritune.bench import SHAPES, bench, end_to_end_rate, known_peak, matrix_rates, one_step, recipe_shape
from inheritune.bench import machine as bench_machine
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.recipe import FIRST_HALF, Evaluate, Recipe, Training
from processes import fresh_program

LENGTH = 32


def llama(vocabulary: int = 300) -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


def gpt2() -> PretrainedConfig:
    return GPT2Config(
        n_layer=3, n_embd=64, n_head=4, n_positions=LENGTH, vocab_size=500, bos_token_id=0, eos_token_id=0
    )


def by_hand(config: PretrainedConfig, length: int) -> int:
    """The convention, counted from the tensors' names: nothing of the input embeddings, the head once."""
    model = AutoModelForCausalLM.from_config(config)
    names = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    inputs = sum(size for name, size in names.items() if any(word in name for word in ("wte", "wpe", "embed_tokens")))
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    return 6 * (sum(names.values()) - inputs) + 12 * config.num_hidden_layers * heads * size * length


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_machine.MATRIX, "cpu", 256)


def measured(folder: Path, config: PretrainedConfig | None = None, **more: Any) -> dict[str, Any]:
    settings = {"batch": "4 sequences", "sequence_length": LENGTH, "compile": False}
    return bench(config or llama(), settings, steps=10, device="cpu", folder=folder, **more)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("config", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_figures_fit_each_other(tmp_path: Path, config: PretrainedConfig) -> None:
    found = measured(tmp_path, config)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["flops_per_token"] == by_hand(config, LENGTH)
    step, limit = found["step"], found["limit"]
    assert step["measured"] >= 8
    assert step["lowest"] <= step["tokens_per_second"] <= step["highest"]
    assert step["tokens_per_second"] == pytest.approx(4 * LENGTH / step["seconds"])
    assert step["flops_per_second"] == pytest.approx(step["tokens_per_second"] * found["flops_per_token"])
    assert limit["measured"] == 7 * 3
    assert found["fraction"] == pytest.approx(step["flops_per_second"] / limit["flops_per_second"])
    assert limit["data_sheet"] is None
    assert found["fraction_of_data_sheet"] is None
    left = found["end_to_end"]
    assert 0 <= left["between_steps_seconds"] < 4 * LENGTH / left["tokens_per_second"]
    assert 0 < left["lost"] < 1
    assert left["validation_seconds"] > 0
    assert found["memory"]["peak_bytes"] > 10 * 2**20
    assert found["hardware"]["device"] == "cpu"
    assert found["micro_batch"] == 4  # what the engine chose
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_limit")
def test_a_whole_training_is_timed(tmp_path: Path) -> None:
    found = measured(tmp_path, end_to_end=12, evaluate=Evaluate.model_validate({"every": "5 steps", "sequences": 4}))
    whole = found["end_to_end_direct"]
    assert whole["validations"] == 3
    assert whole["steps"] == 9
    assert 0 < whole["seconds_in_steps"] < whole["seconds"]
    assert whole["tokens_per_second"] == pytest.approx(9 * 4 * LENGTH / whole["seconds"])


def test_end_to_end_by_hand() -> None:
    """Ten steps of 1 s in a round and 1 s beside them; 4 s a validation, 6 s a best model, 20 s a checkpoint."""
    training = Training.model_validate({"length": "9 steps", "batch": "2 sequences", "sequence_length": 50})
    judged = Evaluate.model_validate({"every": "100 steps"})
    spans = [500.0, 11.0, 11.0, 11.0, 17.0, 31.0]
    inside = [10.0, 10.0, 10.0]
    found = end_to_end_rate(training, judged, spans, inside, [4.0], 10)
    assert found is not None
    assert found["between_steps_seconds"] == pytest.approx(0.1)
    # in 5 minutes: 20 s for a checkpoint, and 280 s for steps of 1.1 s and a hundredth of 4 + 6 s
    assert found["tokens_per_second"] == pytest.approx(100 * 280 / (1.1 + 0.1) / 300)
    assert found["lost"] == pytest.approx(1 - 280 / (1.1 + 0.1) / 300)
    by_steps = training.model_copy(
        update={"checkpoint": training.checkpoint.model_validate({"every": "200 steps", "best": False})}
    )
    found = end_to_end_rate(by_steps, judged, spans, inside, [4.0], 10)
    assert found is not None
    assert found["tokens_per_second"] == pytest.approx(100 / (1.1 + 0.04 + 0.1))
    assert end_to_end_rate(training, judged, spans[:4], inside, [4.0], 10) is None
    # steps of different length: what lies beside them is counted within each round
    uneven = end_to_end_rate(training, judged, [*spans[:2], 12.0, 19.0, *spans[4:]], [10.9, 11.9, 18.9], [4.0], 10)
    assert uneven is not None
    assert uneven["between_steps_seconds"] == pytest.approx(0.01)


@pytest.mark.usefixtures("small_limit")
def test_when_time_is_short_no_checkpoint_is_begun(tmp_path: Path) -> None:
    found = measured(tmp_path, minutes=1e-6)
    assert found["end_to_end"] is None
    assert found["step"]["measured"] >= 4


@pytest.mark.parametrize("config", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_the_convention_is_what_the_matrix_products_cost(config: PretrainedConfig) -> None:
    """What torch counts in a step: beside attention the same within 2 % (norms and biases cost no products)."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tokens = torch.zeros(2, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    attention = 12 * config.num_hidden_layers * config.hidden_size * LENGTH
    products = sum(count for name, count in counts.items() if "bmm" not in str(name)) / tokens.numel()
    assert training_flops_per_token(model, LENGTH) - attention == pytest.approx(products, rel=0.02)
    pairs = sum(count for name, count in counts.items() if "bmm" in str(name)) / tokens.numel()
    assert pairs == pytest.approx(attention, rel=0.02)


def test_the_limit_is_a_rate() -> None:
    rates = matrix_rates(runtime.start("cpu"), torch.float32, times=2)
    assert len(rates) == 2
    assert all(1e8 < rate < 1e15 for rate in rates)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", None), ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA RTX A6000", 155e12), ("NVIDIA H200 NVL", None), ("NVIDIA GeForce RTX 4090 D", None),
    ],
)  # fmt: skip
def test_known_peaks(name: str, peak: float | None) -> None:
    assert known_peak(name) == peak


def test_named_shapes() -> None:
    """The sizes that the shapes are named for."""
    from inheritune.arch import build_skeleton, new_config

    sizes = {}
    for name, shape in SHAPES.items():
        config = new_config(shape["model"], shape["vocabulary"], {}, shape["train"]["sequence_length"])
        sizes[name] = sum(parameter.numel() for parameter in build_skeleton(config).parameters())
    assert sizes["standard"] == 17_440_512
    block = 4 * 3200**2 + 3 * 3200 * 8640 + 2 * 3200
    assert sizes["openllama-1.5b"] == 13 * block + 2 * 32000 * 3200 + 3200


def test_one_step(tmp_path: Path) -> None:
    settings = Training.model_validate({"length": "5 steps", "batch": "2 sequences", "sequence_length": LENGTH})
    found = one_step(llama(), settings, runtime.start("cpu"), tmp_path)
    assert found["loss"] == pytest.approx(math.log(300), abs=0.3)
    assert found["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_a_recipes_first_target(text: Path, reference_folder: Path) -> None:
    tree = tiny_recipe(text, reference_folder) | {"inherit": {"layers": 3}, "grow": None}
    assert recipe_shape(Recipe.model_validate(tree)).num_hidden_layers == 3
    made = tiny_recipe(text) | {"inherit": {"layers": 2, **FIRST_HALF}}
    config = recipe_shape(Recipe.model_validate(made))
    assert (config.n_layer, config.n_embd, config.vocab_size) == (2, 8, 300)


@pytest.mark.usefixtures("small_limit")
def test_the_command(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--steps", "5", "--compile=false", "--folder", str(tmp_path), "--device", "cpu", "--quiet")
    words = ("--model", str(reference_folder), "--batch", "2 sequences", "--sequence-length", "16")
    assert main(["bench", *words, *few, "--optimizer.clip=null", "--out", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown
    assert "256³ float32 product" in shown
    assert "peak resident memory" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["blocks"] == 4
    assert found["optimizer"]["clip"] is None
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    assert main(["bench", "--recipe", str(recipe), *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["blocks"], found["micro_batch"], found["sequence_length"]) == (1, 2, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "stanard"], "shapes are standard, openllama-1.5b"),
        (["--shape", "standard", "--model", "x"], "give one of"),
        (["--batch", "8"], "a size needs its unit"),
        (["--sequence-length", "1"], "sequence_length"),
        (["--optimiser.name=muon"], "unknown key"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_too_few_steps() -> None:
    with pytest.raises(InputError, match="at least 5"):
        bench("standard", steps=2)


@pytest.mark.long
def test_the_standard_shape_as_a_user_measures_it(tmp_path: Path) -> None:
    done = fresh_program(
        "bench", "--steps", "5", "--batch", "1 sequences", "--out", tmp_path / "found.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["parameters"] == 17_440_512
    assert 0.1 < found["fraction"] < 1.1
    assert yaml.safe_load(json.dumps(found["compile"])) is True
