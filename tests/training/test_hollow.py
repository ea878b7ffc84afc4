"""One process has a model's weights, the others have it without memory: sharded, each has its rows of them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from inheritune import runtime
from inheritune.arch import block_modules, build_hollow
from inheritune.training import Objective, choose, parallelize
from processes import in_processes

LLAMA = LlamaConfig(vocab_size=37, hidden_size=16, intermediate_size=23, num_hidden_layers=2, num_attention_heads=2)
GPT2 = GPT2Config(vocab_size=37, n_positions=10, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
TOKENS_BT = torch.arange(8).view(1, 8)


def whole(kind: str) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LLAMA) if kind == "llama" else GPT2LMHeadModel(GPT2)


def be_one(rank: int, folder: str, kind: str, processes: int, nodes: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": str(rank), "WORLD_SIZE": str(processes)}
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=processes)
    here = runtime.Runtime("cpu", 1, rank, processes, nodes=nodes)
    shards = processes // nodes
    expected = whole(kind).eval()
    with torch.no_grad():
        losses = Objective(expected)(TOKENS_BT, TOKENS_BT, by_token=True)
    model = whole(kind) if rank == 0 else build_hollow(type(expected), expected.config, torch.float32)
    assert all(parameter.is_meta == (rank > 0) for parameter in model.parameters())
    held = parallelize(Objective(model.eval()), block_modules(model), choose("hsdp", model, here), here, trained=False)
    for name, parameter in expected.named_parameters():
        own: Any = dict(model.named_parameters())[name]
        assert torch.equal(own.full_tensor(), parameter), name
        assert own.to_local().shape[0] <= -(-parameter.shape[0] // shards)
    with torch.no_grad():
        assert torch.equal(held.module(TOKENS_BT, TOKENS_BT, by_token=True), losses)
    runtime.leave()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "processes", "nodes"), [("llama", 3, 1), ("gpt2", 2, 1), ("llama", 4, 2)],
    ids=["uneven rows", "tied", "two replicas"],
)  # fmt: skip
def test_each_process_gets_its_rows_of_the_firsts_weights(
    tmp_path: Path, kind: str, processes: int, nodes: int
) -> None:  # fmt: skip
    in_processes(be_one, str(tmp_path), kind, processes, nodes, processes=processes)
