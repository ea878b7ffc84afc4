"""Everything that computes, on a pretended GPU: no tensor stays on the CPU, and the numbers are those of the CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_text, tiny_recipe
from inheritune.analysis import analyze
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import Inherit, Recipe
from inheritune.runlog import read_metrics
from pretended_gpu import OnGPU, pretended_gpu

ONLINE = {"distillation": {"student": 0.5, "hidden_states": {"weight": 1.0}, "outputs": "online"}}


def test_what_cuda_refuses_is_refused() -> None:
    here = torch.arange(4.0)
    with pretended_gpu():
        there = here.to("cuda")
        assert isinstance(there, OnGPU)
        assert there.device.type == "cuda"
        assert (there * 2).tolist() == (here * 2).tolist()
        assert torch.ones(3, device="cuda").sum().item() == 3
        assert there[torch.tensor([1])].tolist() == [1]  # indices may be the CPU's
        for wrong in (
            lambda: there + here, lambda: there @ here, lambda: here[there.long()], lambda: torch.cat([here, there]),
            lambda: torch.nn.functional.cross_entropy(there[None], torch.tensor([1])),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match=r"of the (CPU|GPU)"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there + 1).cpu().numpy().tolist() == (here + 1).tolist()


def recipe(text: Path, reference: Path, device: str, **train: Any) -> Recipe:
    tree = tiny_recipe(text, reference) | {"grow": None, "controls": []}
    tree["train"] |= {"compile": False, "precision": "float32", "length": "6 steps"} | train
    tree |= {"hardware": {"device": device}, "inherit": {"layers": 2, "choose": "first", "refit": "256 tokens"}}
    return Recipe.model_validate(tree)


@pytest.mark.long
@pytest.mark.parametrize(
    "train",
    [
        ONLINE | {"optimizer": {"name": "muon"}, "micro_batch": "auto"},
        {"distillation": {"outputs": "stored", "top_k": 8}, "attention": "document"},
    ],
    ids=["online, muon", "stored, documents"],
)
def test_a_run_gives_the_numbers_of_the_cpu(reference_folder: Path, tmp_path: Path, train: dict[str, Any]) -> None:
    text = make_text(tmp_path / "text", documents=16)
    run(recipe(text, reference_folder, "cpu", **train), tmp_path / "cpu")
    trained = tmp_path / "gpu" / "rounds" / "1-2layers"
    with pretended_gpu():
        run(recipe(text, reference_folder, "cuda", **train), tmp_path / "gpu")
        for part in (trained / "model", trained / "checkpoints" / "step-000000006"):
            shutil.rmtree(part)
        for name in ("training.json", "evaluation.json"):
            (trained / name).unlink()
        run(recipe(text, reference_folder, "cuda", **train), tmp_path / "gpu")  # from step 3 on
    there, here = (read_metrics(tmp_path / name / "rounds" / "1-2layers" / "metrics.jsonl") for name in ("gpu", "cpu"))
    assert [one["step"] for one in there] == list(range(7))
    for key in ("loss", "val_loss"):
        assert [one[key] for one in there if key in one] == pytest.approx(
            [one[key] for one in here if key in one], abs=1e-5
        )


@pytest.mark.long
def test_looking_at_a_model(text: Path, reference_folder: Path) -> None:
    given = {"text": text, "sequences": 3, "sequence_length": 12, "loss_sequences": 2, "dtype": "float32"}
    chosen = {"selection": Inherit(layers=2, choose="influence")}
    here = analyze(str(reference_folder), device="cpu", **given, **chosen)
    with pretended_gpu():
        there = analyze(str(reference_folder), device="cuda", **given, **chosen)
    assert flat(json.loads(there.model_dump_json())) == pytest.approx(
        flat(json.loads(here.model_dump_json())), abs=1e-4
    )


def flat(tree: Any) -> list[float]:
    """The numbers of a tree, but for seconds."""
    if isinstance(tree, dict):
        tree = [value for name, value in tree.items() if name != "seconds"]
    if isinstance(tree, list):
        return [number for one in tree for number in flat(one)]
    return [tree] if isinstance(tree, int | float) else []


def test_without_one_it_is_refused(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="cuda is not on this machine"):
        run(recipe(text, reference_folder, "cuda"), tmp_path / "run")
