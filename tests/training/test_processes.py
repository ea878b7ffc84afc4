"""Several processes: the same losses as one; started by torchrun and stopped, a run that changes their number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inheritune.corpus import prepare
from inheritune.runlog import read_metrics
from inheritune.training import lacking_compiler
from processes import begin_together, together

STEPS = 12
TRAIN = [
    "--sequence-length", "16", "--batch", "8 sequences", "--micro_batch=1", "--evaluate-every", "6 steps",
    "--optimizer.learning_rate=1e-2", "--quiet", "--device", "cpu",
]  # fmt: skip
EACH_STEP = "--checkpoint.every=1 steps"


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


def words(model: Path, data: Path, out: Path, *more: Any, steps: int = STEPS) -> list[Any]:
    return ["train", model, out, "--data", data, "--length", f"{steps} steps", *TRAIN, *more]


def train(processes: int, model: Path, data: Path, out: Path, *more: Any) -> None:
    for done in together(processes, *words(model, data, out, *more)):
        assert done.returncode == 0, done.stderr


def torchrun(*given: Any) -> "subprocess.Popen[str]":
    """Two processes as a user starts them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.Popen([*launcher, "inheritune", *map(str, given)], stderr=subprocess.PIPE, text=True)


def losses(out: Path) -> list[float]:
    records = read_metrics(out / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(len(records)))
    return [record["loss"] for record in records if "loss" in record]


@pytest.fixture(scope="module")
def alone(data: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(1, reference_folder, data, out)
    return out


@pytest.mark.long
def test_compiled_block_by_block_the_losses_stay(
    data: Path, reference_folder: Path, alone: Path, tmp_path: Path
) -> None:
    if lacking_compiler("cpu") is not None:
        pytest.skip(f"torch.compile needs {lacking_compiler('cpu')}, which is not on this machine")
    train(2, reference_folder, data, tmp_path / "run", "--parallel", "fsdp", "--compile=true")
    check_same(tmp_path / "run", alone)


@pytest.mark.long
def test_attention_inside_documents_on_two_processes(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    for name, processes, more in (
        ("one", 1, []),
        ("ddp", 2, ["--parallel", "ddp"]),
        ("fsdp", 2, ["--parallel", "fsdp"]),
    ):
        more = [*more, "--attention=document", "--activation_checkpointing=true"]
        train(processes, reference_folder, data, tmp_path / name, *more)
    for name in ("ddp", "fsdp"):
        check_same(tmp_path / name, tmp_path / "one")


def check_same(out: Path, alone: Path, steps: int = STEPS) -> None:
    assert losses(out) == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(out)) == steps
    here, there = (json.loads((place / "evaluation.json").read_text()) for place in (out, alone))
    assert here["val_loss"] == pytest.approx(there["val_loss"], abs=1e-4)
    assert here["cluster_losses"] == pytest.approx(there["cluster_losses"], abs=1e-4)
    assert here["cluster_tokens"] == there["cluster_tokens"]


@pytest.mark.long
@pytest.mark.parametrize(("processes", "parallel"), [(2, "fsdp"), (2, "ddp"), (3, "fsdp"), (1, "fsdp")])
def test_the_losses_do_not_depend_on_the_number_of_processes(
    processes: int, parallel: str, data: Path, reference_folder: Path, alone: Path, tmp_path: Path
) -> None:
    train(processes, reference_folder, data, tmp_path / "run", "--parallel", parallel)
    check_same(tmp_path / "run", alone)


@pytest.mark.long
def test_begun_on_two_it_goes_on_with_another_number_and_ends_where_it_would_have(
    data: Path, reference_folder: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with torchrun(*words(reference_folder, data, out, "--parallel", "fsdp", EACH_STEP)) as begun:
        wait_for(lambda: len(read_metrics(out / "metrics.jsonl")) > 4, begun)
        kill_all(begun.pid)
    assert 0 < len(losses(out)) < STEPS
    shutil.copytree(out, tmp_path / "other")
    train(1, reference_folder, data, out, "--parallel", "auto")
    train(4, reference_folder, data, tmp_path / "other", "--parallel", "fsdp")
    check_same(out, alone)
    check_same(tmp_path / "other", alone)


@pytest.mark.long
def test_two_replicas_of_two_shards_give_the_losses_of_one_process(
    data: Path, reference_folder: Path, tmp_path: Path
) -> None:
    """Begun on two nodes of two processes, killed, and resumed on one and on two."""
    one, out = tmp_path / "one", tmp_path / "four"
    assert together(1, *words(reference_folder, data, one, steps=20))[0].returncode == 0
    given = words(reference_folder, data, out, "--parallel", "hsdp", EACH_STEP, steps=20)
    begun = begin_together(4, *given, nodes=2)
    begun[0].wait_until(lambda: len(read_metrics(out / "metrics.jsonl")) > 8)
    for process in begun:
        process.send(signal.SIGKILL)
    for process in begun:
        process.wait(60)
    assert 0 < len(losses(out)) < 20
    shutil.copytree(out, tmp_path / "two")
    assert together(1, *words(reference_folder, data, out, steps=20))[0].returncode == 0
    two = words(reference_folder, data, tmp_path / "two", "--parallel", "hsdp", steps=20)
    assert [done.returncode for done in together(2, *two, nodes=2)] == [0, 0]
    given[2] = tmp_path / "whole"
    assert [done.returncode for done in together(4, *given, nodes=2)] == [0] * 4
    for other in (out, tmp_path / "two", tmp_path / "whole"):
        check_same(other, one, 20)


@pytest.mark.long
def test_sigterm_stops_all_after_the_step_and_keeps_the_state(
    data: Path, reference_folder: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with torchrun(*words(reference_folder, data, out)) as begun:
        wait_for(lambda: len(read_metrics(out / "metrics.jsonl")) > 3, begun)
        begun.send_signal(signal.SIGTERM)
        said = begun.communicate(timeout=60)[1]
    assert begun.returncode != 0
    assert "the state is saved: run the same command again" in said
    train(1, reference_folder, data, out)
    check_same(out, alone)


@pytest.mark.long
def test_a_dead_process_ends_the_job_with_a_word(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with torchrun(*words(reference_folder, data, out, steps=2000)) as begun:
        wait_for(lambda: len(read_metrics(out / "metrics.jsonl")) > 3, begun)
        found = subprocess.run(["pgrep", "-P", str(begun.pid)], capture_output=True, text=True, check=True).stdout
        os.kill(int(found.split()[-1]), signal.SIGKILL)
        said = begun.communicate(timeout=60)[1]
    assert begun.returncode == 1
    assert "SIGKILL" in said or "another process of the job ended" in said


def kill_all(launcher: int) -> None:
    """The launcher and its workers, which are in sessions of their own."""
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True).stdout
    for number in (launcher, *map(int, found.split())):
        os.kill(number, signal.SIGKILL)


def wait_for(there: Any, begun: "subprocess.Popen[Any]") -> None:
    until = time.monotonic() + 90
    while not there():
        assert begun.poll() is None, "it ended too early"
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.long
def test_sequences_of_unlike_lengths_give_one_loss_however_they_are_shared(tmp_path: Path) -> None:
    """A prefix before each document makes them unlike: on two processes, compiled, and with a micro-batch of four."""
    model, data = with_prefix(tmp_path)
    ways: dict[str, tuple[int, list[str]]] = {
        "one": (1, []),
        "several at once": (1, ["--micro_batch=4"]),
        "ddp": (2, ["--parallel", "ddp"]),
        "fsdp": (2, ["--parallel", "fsdp", "--micro_batch=2"]),
        "replaced": (1, ["--sampling=with replacement"]),
    }
    if lacking_compiler("cpu") is None:
        ways["compiled"] = (1, ["--compile=true", "--micro_batch=2"])
    for name, (processes, more) in ways.items():
        train(processes, model, data, tmp_path / name, *more)
    for name in ways.keys() - {"one", "replaced"}:
        check_same(tmp_path / name, tmp_path / "one")


def with_prefix(folder: Path) -> tuple[Path, Path]:
    """A tiny Llama whose tokenizer puts <s> before a text, and data of short documents."""
    import torch
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM

    from inheritune.data import train_tokenizer

    lines = [f"Line {number}: the small model keeps {number % 7} of its blocks." for number in range(300)]
    tokenizer = train_tokenizer(iter(lines * 2), 290)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=290, eos_token_id=0, pad_token_id=None)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    source = {"path": str(folder / "lines.txt"), "document": "line"}
    prepare({"sources": [source], "validation": "600 tokens"}, tokenizer, folder / "data")
    return folder / "model", folder / "data"
