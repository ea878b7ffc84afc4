"""How to silence a new block where a norm follows its projections (Gemma 2, OLMo 2): three ways, several seeds.

    python benchmarks/function_preserving_growth.py

A model of 2 blocks learns to continue noisy arithmetic sequences, then a copy of its last block is put behind it: as it
is, with its projections zeroed (what `grow: {silent: true}` does), or with the gains of the norms behind them zeroed.
Printed: the new block's gradient norm at growth, and the loss right after growth and after further training, as means
over the seeds with standard errors.
"""

import argparse
import statistics

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from inheritune.arch import build_skeleton, find_structure, identity_values, silence_libraries

WAYS = ("as it is", "projections zeroed", "gains zeroed")
# The value of a gain that gives zero: Gemma's norms multiply by 1 + weight.
GAINS = {"gemma2": -1.0, "olmo2": 0.0}
NORMS = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


def batch_of(generator: torch.Generator) -> torch.Tensor:
    """Token ids of shape (16, 32): sequences with steps of 1 to 5, one token in twenty replaced by chance."""
    start, step = (torch.randint(1, high, (16, 1), generator=generator) for high in (64, 6))
    tokens_BT = (start + step * torch.arange(32)) % 64
    noise_BT = torch.randint(0, 64, (16, 32), generator=generator)
    return torch.where(torch.rand(16, 32, generator=generator) < 0.05, noise_BT, tokens_BT)


def train(model: PreTrainedModel, steps: int, generator: torch.Generator, warm_up: int) -> float:
    """AdamW at 3e-4 after a warm-up, clipped at 1; the mean loss of the last 20 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95))
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-4 * min(1.0, (step + 1) / warm_up)
        tokens_BT = batch_of(generator)
        loss = model(tokens_BT, labels=tokens_BT).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return statistics.mean(losses[-20:])


def grown(model: PreTrainedModel, kind: str, way: str) -> PreTrainedModel:
    """`model` with a copy of its last block behind it, silenced in one of the ways."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_hidden_layers += 1
    config.layer_types = None if kind == "olmo2" else [*model.config.layer_types, model.config.layer_types[-1]]
    target = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    structure, last = find_structure(target), model.config.num_hidden_layers
    tensors = model.state_dict()
    for name, tensor in list(tensors.items()):
        where = structure.split(name)
        if where is not None and where[0] == last - 1:
            tensors[structure.name_in(last, where[1])] = tensor
    target.load_state_dict(tensors)
    values = {"as it is": {}, "gains zeroed": dict.fromkeys(NORMS, GAINS[kind])}
    values["projections zeroed"] = identity_values(build_skeleton(config), structure, last)
    with torch.no_grad():
        for name, value in values[way].items():
            target.get_parameter(structure.name_in(last, name)).fill_(value)
    return target


def one_run(kind: str, way: str, seed: int, steps: int) -> tuple[float, float, float]:
    """The new block's gradient norm, the loss at growth, and the loss after `steps` more steps."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    tokens = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = CONFIG_MAPPING[kind](num_hidden_layers=2, max_position_embeddings=64, **sizes, **tokens)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    train(model, steps, generator, warm_up=50)
    target = grown(model, kind, way)
    tokens_BT = batch_of(torch.Generator().manual_seed(1000 + seed))
    loss = target(tokens_BT, labels=tokens_BT).loss
    loss.backward()
    block = target.get_submodule(f"{find_structure(target).blocks}.2")
    norm = torch.stack([p.grad.norm() for p in block.parameters() if p.grad is not None]).norm().item()
    return norm, loss.item(), train(target, steps, generator, warm_up=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    words = parser.parse_args()
    silence_libraries()
    print("| model | new block | gradient norm at growth | loss at growth | loss after further training |")
    print("| --- | --- | --- | --- | --- |")
    for kind in GAINS:
        for way in WAYS:
            runs = [one_run(kind, way, seed, words.steps) for seed in range(words.seeds)]
            cells = []
            for figures in zip(*runs, strict=True):
                error = statistics.stdev(figures) / len(figures) ** 0.5 if len(figures) > 1 else 0.0
                cells.append(f"{statistics.mean(figures):.3f} ±{error:.3f}")
            print(f"| {kind} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
