"""On a GPU: the numbers of the CPU, compiled and in lower precision numbers near them. Run by `make gpu`.

INHERITUNE_GPU_TESTS=cpu runs them on the CPU, uncompiled, as the rehearsal of `make gpu` does.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from inheritune.analysis import analyze
from inheritune.experiment import run
from inheritune.runlog import read_metrics
from test_pretended_gpu import flat, recipe

DEVICE = os.environ.get("INHERITUNE_GPU_TESTS", "cuda")
ON_CUDA = DEVICE == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="no GPU here"),
]
TAUGHT: dict[str, Any] = {"distillation": {"outputs": "stored", "top_k": 8}, "attention": "document"}


def losses(text: Path, reference: Path, folder: Path, device: str, **train: Any) -> list[float]:
    run(recipe(text, reference, device, **train), folder)
    records = read_metrics(folder / "rounds" / "1-2layers" / "metrics.jsonl")
    return [one[key] for one in records for key in ("loss", "val_loss") if key in one]


@pytest.fixture(scope="module")
def on_cpu(text: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(text, reference_folder, tmp_path_factory.mktemp("cpu") / "run", "cpu", **TAUGHT)


def test_a_training_has_the_losses_of_the_cpu(
    text: Path, reference_folder: Path, tmp_path: Path, on_cpu: list[float]
) -> None:
    assert losses(text, reference_folder, tmp_path / "run", DEVICE, **TAUGHT) == pytest.approx(on_cpu, abs=1e-3)


def test_compiled_in_bfloat16_they_are_near(
    text: Path, reference_folder: Path, tmp_path: Path, on_cpu: list[float]
) -> None:
    more = TAUGHT | {
        "precision": "bfloat16",
        "compile": ON_CUDA,
        "micro_batch": "auto",
        "activation_checkpointing": True,
    }
    found = losses(text, reference_folder, tmp_path / "run", DEVICE, **more)
    assert found != on_cpu
    assert found == pytest.approx(on_cpu, abs=0.05)


@pytest.mark.skipif(not ON_CUDA or find_spec("torchao") is None, reason="needs a GPU and torchao")
def test_products_in_float8_are_near(text: Path, reference_folder: Path, tmp_path: Path, on_cpu: list[float]) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    more = TAUGHT | {"precision": "float8", "compile": True}
    assert losses(text, reference_folder, tmp_path / "run", DEVICE, **more) == pytest.approx(on_cpu, abs=0.1)


def test_a_model_looks_as_on_the_cpu(text: Path, reference_folder: Path) -> None:
    given = {"text": text, "sequences": 3, "sequence_length": 12, "loss_sequences": 2, "dtype": "float32"}
    here, there = (analyze(str(reference_folder), device=device, **given) for device in ("cpu", DEVICE))
    assert flat(json.loads(there.model_dump_json())) == pytest.approx(
        flat(json.loads(here.model_dump_json())), rel=0.02, abs=1e-3
    )
