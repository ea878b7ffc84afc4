"""A teacher on several processes: the same losses and the same stored bytes as on one."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from inheritune.corpus import prepare
from inheritune.runlog import read_metrics
from processes import program, together

TRAIN = [
    "--length", "10 steps", "--sequence-length", "16", "--batch", "7 sequences", "--micro_batch=2", "--quiet",
    "--optimizer.learning_rate=1e-2", "--device", "cpu", "--evaluate-every", "5 steps",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes-taught") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def teacher(reference_folder: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("teacher")
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(processes: int, *words: Any) -> list[subprocess.CompletedProcess[str]]:
    given = ["train", *words, *TRAIN]
    return [program(*given)] if processes == 1 else together(processes, *given)


@pytest.mark.long
@pytest.mark.parametrize(("outputs", "asked"), [
    ("stored", "top_k=8"), ("online", "top_k=8"), ("stored", "hidden_states.weight=2"),
])  # fmt: skip
def test_two_processes_learn_what_one_learns(
    outputs: str, asked: str, reference_folder: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    records, stored = {}, {}
    for name, processes, parallel in (("one", 1, "auto"), ("ddp", 2, "ddp"), ("fsdp", 2, "fsdp")):
        out = tmp_path / name
        words = [reference_folder, out, "--data", data, "--teacher", teacher]
        words += [f"--distillation.outputs={outputs}", f"--distillation.{asked}"]
        for done in train(processes, *words, "--parallel", parallel):
            assert done.returncode == 0, done.stderr
        records[name] = [record for record in read_metrics(out / "metrics.jsonl") if "loss" in record]
        stored[name] = {file.name: file.read_bytes() for file in (out / "teacher").rglob("*.bin")}
    assert len(records["one"]) == 10
    assert records["one"][0]["kl"] > 0.1
    for name in ("ddp", "fsdp"):
        for one, other in zip(records["one"], records[name], strict=True):
            for key in ("loss", "cross_entropy", "kl", *(["hidden_states"] if "hidden_states" in one else [])):
                assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5)
        assert stored[name] == stored["one"]
    assert bool(stored["one"]) == (outputs == "stored")


@pytest.mark.long
def test_wrong_teachers_are_said_once(reference_folder: Path, data: Path, tmp_path: Path) -> None:
    words = [reference_folder, tmp_path / "out", "--data", data, "--teacher", tmp_path / "nowhere"]
    first, second = train(2, *words)
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.count("nowhere") == 1
    assert "Traceback" not in first.stderr + second.stderr
