"""What each arm starts with, tensor by tensor, against the definitions of the paper.

The trainings have a rate of 1e-30, so that what an arm ends with is what it began with, through the whole course.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import stored_tensors
from inheritune import compare
from tiny_suites import make_reference, tiny_suite

pytestmark = pytest.mark.long

D, HEADS = 16, 4
ARMS: list[dict[str, Any]] = [
    {"name": "first", "start": {"kind": "inherit", "layers": 3}},
    {"name": "both ends", "start": {"kind": "inherit", "layers": [0, 1, 5]}},
    {"name": "middle", "start": {"kind": "inherit", "layers": 2, "choose": "middle"}},
    {"name": "every k-th", "start": {"kind": "inherit", "layers": 3, "choose": "every"}},
    {"name": "lazy", "start": {"kind": "lazy", "layers": 2}},
    {"name": "attention", "start": {"kind": "inherit", "submodules": ["attention", "embeddings", "final_norm"]}},
    {"name": "MLP", "start": {"kind": "inherit", "submodules": ["mlp"]}},
    {"name": "MLP and rest", "start": {"kind": "inherit", "submodules": ["mlp", "embeddings", "final_norm"]}},
    {"name": "without norms", "start": {"kind": "inherit", "submodules": ["attention", "mlp"]}},
    {"name": "blocks", "start": {"kind": "inherit", "submodules": ["attention", "mlp", "norms"]}},
    {"name": "and embeddings", "start": {"kind": "inherit", "submodules": ["attention", "mlp", "norms", "embeddings"]}},
    {"name": "and final norm", "start": {"kind": "inherit", "submodules": ["attention", "mlp", "norms", "final_norm"]}},
    {"name": "auto", "start": {"kind": "inherit", "layers": 2, "choose": "auto"}},
    {"name": "random", "start": "random"},
    {"name": "stacking", "start": {"kind": "stacking", "layers": 4}},
    {"name": "small", "start": {"kind": "random", "layers": 2}},
    {"name": "stacked small", "start": {"kind": "stacking", "layers": 4, "of": "small"}, "allow_unequal": "two stages"},
    {"name": "hybrid", "start": {"kind": "hybrid-stacking", "layers": 6}},
    {"name": "distilbert", "start": {"kind": "distilbert", "layers": 5}, "train": {"distillation": {}}},
    {"name": "half width", "start": "half-width"},
    {"name": "whole", "start": "reference"},
    {
        "name": "grown anew",
        "allow_unequal": "rounds",
        "start": {"kind": "growth", "layers": 2, "grow": {"by": 1, "max_layers": 4, "until": "max_layers"}},
    },
    {
        "name": "grown on",
        "allow_unequal": "rounds",
        "start": {
            "kind": "growth",
            "layers": 2,
            "grow": {"by": 1, "max_layers": 4, "until": "max_layers", "start": "trained", "function_preserving": True},
        },
    },
    {
        "name": "staged",
        "start": {"kind": "staged", "layers": [0, 2, 5], "through": ["0-3,5", [0, 2, 3, 5]], "share": 0.67},
        "train": {"length": "3 steps", "distillation": {"hidden_states": {"weight": 1.0}}},
        "allow_unequal": "a step for each stage",
    },
    {
        "name": "staged auto",
        "start": {"kind": "staged", "layers": 2, "share": 0.5, "anneal": True},
        "train": {"distillation": {"hidden_states": {"weight": 1.0}}},
    },
    {"name": "of an arm", "start": {"kind": "inherit", "layers": 2, "of": "lazy", "choose": "last"}},
]

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, text: Path, tokenizer: Any
) -> tuple[Tensors, dict[str, Tensors], Any]:
    """The reference's tensors, those of each arm, and comparison.json."""
    folder = tmp_path_factory.mktemp("starts")
    reference = make_reference(folder / "model", tokenizer)
    suite = tiny_suite(text, reference, ARMS)
    suite["data"]["sources"][0]["document"] = "200 characters"  # so that there are enough to measure `auto` on
    suite["train"] |= {"length": "2 steps", "optimizer": {"learning_rate": 1e-30}, "checkpoint": {"best": False}}
    found = compare(suite, folder / "out")
    assert [arm.failures for arm in found.arms] == [[]] * len(ARMS)
    arms = {arm.name: stored_tensors(folder / "out" / arm.model) for arm in found.arms}
    for arm in found.arms:
        if arm.start == "growth":  # the deepest round, whichever is the result
            last = arm.runs[0].stages[-1].folder
            arms[arm.name] = stored_tensors(folder / "out" / arm.runs[0].folder / last / "model")
    first = stored_tensors(folder / "out" / "arms" / "stacking" / "seed-1" / "first-stage" / "model")
    return stored_tensors(reference), {**arms, "first stage": first}, found


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and bool(torch.allclose(left, right, rtol=0, atol=1e-20))


def named(tensors: Tensors, block: int | None) -> Tensors:
    """The tensors of a block by the names that they have in it; None: those outside of blocks."""
    start = f"transformer.h.{block}."
    if block is None:
        return {name: tensor for name, tensor in tensors.items() if ".h." not in name}
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def assert_blocks(arm: Tensors, source: Tensors, blocks: list[int]) -> None:
    assert not named(arm, len(blocks))
    for place, block in enumerate(blocks):
        ours, theirs = named(arm, place), named(source, block)
        assert ours.keys() == theirs.keys()
        assert all(same(ours[name], theirs[name]) for name in theirs), (place, block)


def assert_rest(arm: Tensors, source: Tensors) -> None:
    """Token and position embeddings, final norm; the head is tied."""
    ours, theirs = named(arm, None), named(source, None)
    assert {"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight"} <= theirs.keys()
    assert all(same(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("arm", "blocks"),
    [
        ("first", [0, 1, 2]),
        ("both ends", [0, 1, 5]),
        ("middle", [2, 3]),
        ("every k-th", [0, 2, 4]),
        ("lazy", [4, 5]),
        ("hybrid", [0, 1, 2, 0, 1, 2]),
        ("distilbert", [0, 2, 4, 4, 5]),
        ("whole", [0, 1, 2, 3, 4, 5]),
        ("staged", [0, 2, 5]),
        ("grown anew", [0, 1, 2, 3]),
    ],
)
def test_whole_blocks_of_the_reference(runs: Any, arm: str, blocks: list[int]) -> None:
    reference, arms, _ = runs
    assert_blocks(arms[arm], reference, blocks)
    assert_rest(arms[arm], reference)


@pytest.mark.parametrize(
    ("arm", "taken"),
    [
        ("attention", ("attn.", "transformer.")),
        ("MLP", ("mlp.",)),
        ("MLP and rest", ("mlp.", "transformer.")),
        ("without norms", ("attn.", "mlp.")),
        ("blocks", ("attn.", "mlp.", "ln_")),
        ("and embeddings", ("attn.", "mlp.", "ln_", "transformer.w")),
        ("and final norm", ("attn.", "mlp.", "ln_", "transformer.ln_f")),
        ("random", ()),
    ],
)
def test_submodules(runs: Any, arm: str, taken: tuple[str, ...]) -> None:
    """What is named is the reference's; no other tensor is, norms and biases included."""
    reference, arms, _ = runs
    for block in (0, 1, 2, None):
        theirs = named(reference, block)
        for name, tensor in named(arms[arm], block).items():
            if name.startswith(taken):
                assert same(tensor, theirs[name]), name
            else:
                assert not same(tensor, theirs[name]), name


def test_auto_takes_the_blocks_that_it_says(runs: Any) -> None:
    reference, arms, found = runs
    arm = next(arm for arm in found.arms if arm.name == "auto")
    assert len(arm.blocks) == 2
    assert_blocks(arms["auto"], reference, arm.blocks)
    assert_rest(arms["auto"], reference)


def test_growth_that_goes_on_puts_silent_blocks_on_what_it_has(runs: Any) -> None:
    """The third and fourth block are the reference's, but for what they add to the stream, which is nothing at first."""
    reference, arms, _ = runs
    arm, silent = arms["grown on"], ("attn.c_proj.", "mlp.c_proj.")
    assert_rest(arm, reference)
    for block in range(4):
        ours, theirs = named(arm, block), named(reference, block)
        for name, tensor in ours.items():
            if block >= 2 and name.startswith(silent):
                assert same(tensor, torch.zeros_like(tensor)), (block, name)
            else:
                assert same(tensor, theirs[name]), (block, name)


def test_stacking_puts_the_first_stage_on_top_of_itself(runs: Any) -> None:
    reference, arms, found = runs
    first = arms["first stage"]
    assert not named(first, 2)
    assert_blocks(arms["stacking"], first, [0, 1, 0, 1])
    assert_rest(arms["stacking"], first)
    assert not same(first["transformer.wte.weight"], reference["transformer.wte.weight"])
    stages = next(arm for arm in found.arms if arm.name == "stacking").runs[0].stages
    assert [(stage.layers, stage.steps) for stage in stages] == [(2, 1), (4, 1)]


def test_stacking_of_an_arm_counts_that_one_too(runs: Any) -> None:
    _, arms, found = runs
    assert_blocks(arms["stacked small"], arms["small"], [0, 1, 0, 1])
    arm = next(arm for arm in found.arms if arm.name == "stacked small")
    assert (arm.steps, arm.tokens, arm.equal) == (4, 4 * 64, False)


def test_an_arm_of_another_arm(runs: Any) -> None:
    _, arms, _ = runs
    assert_blocks(arms["of an arm"], arms["lazy"], [0, 1])


def test_half_width_is_the_first_half_of_everything(runs: Any) -> None:
    reference, arms, _ = runs
    arm = arms["half width"]
    half = D // 2
    assert same(arm["transformer.wte.weight"], reference["transformer.wte.weight"][:, :half])
    assert same(arm["transformer.ln_f.weight"], reference["transformer.ln_f.weight"][:half])
    for block in range(6):
        ours, theirs = named(arm, block), named(reference, block)
        query, key, value = theirs["attn.c_attn.weight"][:half].split(D, dim=1)  # of all heads; the first two are kept
        assert same(ours["attn.c_attn.weight"], torch.cat([part[:, :half] for part in (query, key, value)], dim=1))
        assert same(ours["attn.c_proj.weight"], theirs["attn.c_proj.weight"][:half, :half])
        assert same(ours["mlp.c_fc.weight"], theirs["mlp.c_fc.weight"][:half, : 2 * D])
        assert same(ours["mlp.c_proj.weight"], theirs["mlp.c_proj.weight"][: 2 * D, :half])
    assert not named(arm, 6)


def test_equal_budgets_are_recorded(runs: Any) -> None:
    _, _, found = runs
    for arm in found.arms:
        assert sum(stage.tokens for stage in arm.runs[0].stages) == arm.tokens
        assert (arm.tokens == found.budget_tokens) == arm.equal == (arm.allow_unequal is None)
