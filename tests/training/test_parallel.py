"""DDP and FSDP on two processes where their gradients differ: parts that no token reaches, memory that one lacks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import inheritune.training.parallel as sharding
from inheritune import runtime
from inheritune.data import Sequences
from inheritune.errors import InputError, RunError
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, Objective, check_parallel, choose, train_steps
from processes import in_processes

LENGTH, VOCABULARY, EXPERTS = 4, 40, 24


class Experts(nn.Module):
    """Each token goes to one of many experts, so that a batch reaches some of them, and each process others."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(EXPERTS))
        self.never = nn.Linear(3, 3)
        self.register_buffer("router", torch.randn(16, EXPERTS))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        chosen_BT = (x_BTD.detach() @ self.router).argmax(-1)
        out_BTD = torch.zeros_like(x_BTD)
        for number in chosen_BT.unique().tolist():
            out_BTD = torch.where((chosen_BT == number).unsqueeze(-1), self.experts[number](x_BTD), out_BTD)
        return out_BTD


def model() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    made = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **none))
    for block in made.transformer.h:
        block.mlp = Experts()
    return made


def train(folder: Path, parallel: str, batch: int, micro_batch: int = 1) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of a training, and the state of the optimizer's steps and the weights that nothing reaches."""
    trained = model()
    row = (np.cumsum(np.random.default_rng(0).integers(1, 4, 401)) % VOCABULARY).astype(np.uint16)
    settings = Training.model_validate({
        "length": "5 steps", "batch": f"{batch} sequences", "sequence_length": LENGTH,
        "micro_batch": micro_batch,
        "optimizer": {"learning_rate": 0.003, "weight_decay": 0.5}, "schedule": {"warm_up": "1 steps"},
        "checkpoint": {"best": False, "every": "1 steps"},
    })  # fmt: skip
    job = Job(
        label="test", model=trained, sequences=Sequences(row, LENGTH, "test"), settings=settings, seed=5,
        folder=folder, runtime=runtime.start("cpu", 1), validate=lambda score: 0.5,
        validate_every=5, blocks=list(trained.transformer.h), parallel=parallel,
    )  # fmt: skip
    train_steps(job)
    losses = [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]
    weights = {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in trained.named_parameters()}
    return losses, weights


def process(rank: int, work: Any, folder: str, *given: Any) -> None:
    """One of two processes, in an environment as torchrun makes it, but for the meeting place."""
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    plain = dist.init_process_group

    def meet(backend: str, **more: Any) -> None:
        plain(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=2, **more)

    dist.init_process_group = meet
    try:
        work(rank, Path(folder), *given)
    finally:
        runtime.leave()


def agrees(rank: int, folder: Path, expected: dict[int, Any]) -> None:
    for parallel in ("ddp", "fsdp", "fsdp, reduced once"):
        if parallel == "fsdp, reduced once":  # as on a GPU with room for all weights and gradients
            sharding._whole_bytes = lambda *_: 1
        for batch, (losses, weights) in expected.items():
            found, values = train(folder / f"{parallel}{batch}", parallel[:4].rstrip(), batch)
            assert found == pytest.approx(losses, abs=1e-5), (parallel, batch)
            for name, value in values.items():
                torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-4, msg=f"{parallel} {batch} {name}")
                assert torch.equal(value, weights[name]) or "never" not in name


@pytest.mark.long
def test_what_is_reached_by_some_or_none_is_trained_as_by_one_process(tmp_path: Path) -> None:
    expected = {batch: train(tmp_path / f"one{batch}", "auto", batch) for batch in (4, 3)}  # 3: one fills up with a row
    start = dict(model().named_parameters())
    weights = expected[4][1]
    rested = [name for name, value in weights.items() if torch.equal(value, start[name])]
    assert len([name for name in rested if "never" in name]) == 4
    assert 10 < len([name for name in rested if "experts" in name]) < 2 * 2 * EXPERTS - 10
    in_processes(process, agrees, str(tmp_path), expected)


def test_on_one_node_hsdp_is_fsdp() -> None:
    assert choose("hsdp", model(), runtime.Runtime("cpu", 1, world_size=4, nodes=2)) == "hsdp"
    assert choose("hsdp", model(), runtime.Runtime("cpu", 1, world_size=4)) == "fsdp"


def unlike_nodes(rank: int, folder: Path) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = str(1 + rank)  # the first one's own number would divide them
    here = runtime.start("cpu", 1)
    assert choose("auto", model(), here) == "ddp"
    with pytest.raises(InputError, match="hsdp, and the nodes have different numbers of processes; start as many"):
        check_parallel("hsdp", here)


@pytest.mark.long
def test_hsdp_needs_nodes_of_one_size(tmp_path: Path) -> None:
    in_processes(process, unlike_nodes, str(tmp_path))


def lacks_memory(rank: int, folder: Path, parallel: str) -> None:
    plain, calls = Objective.forward, iter(range(99))

    def forward(self: Objective, *given: Any, **more: Any) -> torch.Tensor:
        if rank == 1 and len(given[0]) == 2 and next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, *given, **more)

    Objective.forward = forward  # type: ignore[method-assign]
    with pytest.raises(RunError if rank == 1 else RuntimeError) as caught:
        train(folder / parallel, parallel, 4, micro_batch=2)
    if rank == 1:
        assert "test, step 4: out of memory with micro-batches of 2 sequences; run again" in str(caught.value)
        assert "from the last checkpoint, with micro-batches of 1" in str(caught.value)
    else:
        assert "closed by peer" in str(caught.value)


def goes_on(rank: int, folder: Path, parallel: str, losses: list[float]) -> None:
    plain = Objective.forward
    sizes = set()

    def forward(self: Objective, *given: Any, **more: Any) -> torch.Tensor:
        sizes.add(len(given[0]))
        return plain(self, *given, **more)

    Objective.forward = forward  # type: ignore[method-assign]
    found, _ = train(folder / parallel, parallel, 4, micro_batch=2)
    assert found == pytest.approx(losses, abs=1e-5)
    assert sizes == {1, 16}  # 16: the trial of which parameters a token reaches


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_memory_that_one_process_lacks_ends_all_and_the_next_start_needs_less(tmp_path: Path, parallel: str) -> None:
    losses, _ = train(tmp_path / "one", "auto", 4)
    in_processes(process, lacks_memory, str(tmp_path), parallel)
    (tmp_path / "meeting").unlink(missing_ok=True)
    in_processes(process, goes_on, str(tmp_path), parallel, losses)
