"""Measured choices against the figures that they go by, taken separately."""

import math
from typing import Any

import pytest
import torch
from forward import as_rows, some_tokens
from test_partial import losses_by_hand
from tiny_families import build

import inheritune
from inheritune.analysis import choose_blocks, pass_through
from inheritune.analysis.choice import reason
from inheritune.analysis.order import seams_made
from inheritune.errors import InputError
from inheritune.recipe import Inherit
from inheritune.results import Dropped

ROWS = some_tokens(3, 21)


def parameters(model: Any) -> int:
    """All parameters, a tied one once."""
    return sum(parameter.numel() for parameter in set(model.parameters()))


def choose(model: Any, **spec: Any) -> dict[str, Any]:
    return choose_blocks(model, as_rows(ROWS), Inherit(**spec)).to_json()


def drop(block: int, loss: float | None = None, increase: float | None = None) -> Dropped:
    return Dropped(block=block, loss=loss, increase=increase)


def mean_loss(model: Any, kept: list[int]) -> float:
    return sum(losses_by_hand(inheritune.inherit(model, kept).eval(), ROWS)) / len(ROWS)


def test_auto_drops_what_raises_the_loss_least_and_says_so() -> None:
    model = build("llama")
    found = choose(model, layers=2, choose="auto")
    kept, before = [0, 1, 2, 3], mean_loss(model, [0, 1, 2, 3])
    assert found["loss"] == pytest.approx(before, abs=2e-5)
    words = []
    for one in found["dropped"]:
        losses = {block: mean_loss(model, [other for other in kept if other != block]) for block in kept}
        increases = {block: loss - before for block, loss in losses.items()}
        seams = {block: 0.5 * seams_made(block, kept, 4) for block in kept}  # they count half more, or less
        counted = {
            block: rise * (1 + (seams[block] if rise > 0 else -seams[block])) for block, rise in increases.items()
        }
        assert one["block"] == min(counted, key=lambda block: counted[block])
        kept.remove(one["block"])
        assert one["loss"] == pytest.approx(losses[one["block"]], abs=2e-5)
        assert one["increase"] == pytest.approx(losses[one["block"]] - before, abs=4e-5)
        before = losses[one["block"]]
        words.append(f"{one['block']}: {one['increase']:+.2f}")
    assert found["blocks"] == kept
    assert found["reason"].startswith(f"dropped {'; '.join(words)}")
    assert found["trials"] == 4 + 3
    assert found["calibration"] == {"sequences": 3, "sequence_length": 20}


def test_rank_influence_and_loss_go_by_their_figure() -> None:
    model = build("gpt2")
    passed = pass_through(model, as_rows(ROWS))
    whole = mean_loss(model, [0, 1, 2, 3])
    figures = {
        "rank": [float(heads[..., 0].mean(0).max()) for heads in passed.heads if heads is not None],
        "influence": passed.influence.mean(0).tolist(),
        "loss": [mean_loss(model, [other for other in range(4) if other != block]) - whole for block in range(4)],
    }
    orders = set()
    for name, values in figures.items():
        found = choose(model, layers=2, choose=name)
        order = sorted(range(4), key=lambda block: (values[block], -block))
        assert [one["block"] for one in found["dropped"]] == order[:2]
        assert found["blocks"] == sorted(order[2:])
        assert found["choose"] == name
        assert f"dropped {order[0]}; {order[1]} (lowest {name}" in found["reason"]
        orders.add(tuple(order))
    assert len(orders) > 1  # they are not one and the same


@pytest.mark.parametrize(
    ("dropped", "lazy", "by", "words"),
    [
        (
            [drop(17, 2.9, 0.2), drop(26, 3.1, 0.219)],
            [23, 24],
            "auto",
            "dropped 17: +0.20; 26: +0.22; kept though lazy: 23 and 24",
        ),
        ([drop(23, 2.6, -0.014), drop(24, 2.7, 0.1)], [23, 24], "auto", "dropped 23: -0.01; 24: +0.10; 23 and 24 lazy"),
        ([drop(3), drop(1)], [1, 2], "rank", "dropped 3; 1 (lowest rank first); 1 lazy; kept though lazy: 2"),
        ([drop(3)], [0, 1, 2], "influence", "dropped 3 (lowest influence first); kept though lazy: 0, 1 and 2"),
        ([], [], "auto", "dropped none"),
    ],
)  # fmt: skip
def test_reasons_in_words(dropped: list[Dropped], lazy: list[int], by: str, words: str) -> None:
    assert reason(dropped, lazy, by) == words


@pytest.mark.parametrize("by", ["auto", "rank", "influence", "loss"])
def test_a_budget_is_kept_and_used(by: str) -> None:
    model = build("qwen3")
    two, three = (parameters(inheritune.inherit(model, count)) for count in (2, 3))
    for amount in (two, three - 1):
        found = choose(model, size=f"{amount} parameters", choose=by)
        assert len(found["blocks"]) == 2
        assert parameters(inheritune.inherit(model, found["blocks"])) <= amount
    assert len(choose(model, size=f"{three} parameters", choose=by)["blocks"]) == 3
    assert choose(model, size="1 GB", choose=by)["blocks"] == [0, 1, 2, 3]
    by_number = choose(model, layers=2, choose=by)
    assert choose(model, size=f"{two} parameters", choose=by)["blocks"] == by_number["blocks"]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_budget_in_bytes_is_that_of_the_weights_in_their_dtype(dtype: torch.dtype, size: int) -> None:
    model = build("llama").to(dtype)
    model.config.dtype = dtype
    two = size * parameters(inheritune.inherit(model, 2)) / 1e6
    assert len(choose(model, size=f"{two:.6f} MB", choose="influence")["blocks"]) == 2
    assert len(choose(model, size=f"{two - 1e-5:.6f} MB", choose="influence")["blocks"]) == 1
    assert len(choose(model, size=f"{math.ceil(two * 1000) / 1e6:.6f} GB", choose="influence")["blocks"]) == 2


@pytest.mark.parametrize("by", ["auto", "loss"])
def test_a_budget_below_one_block_is_an_error(by: str) -> None:
    with pytest.raises(InputError, match=r"inherit.size: 1K parameters, and one block .* comes to more; allow more"):
        choose(build("llama"), size="1K parameters", choose=by)


def test_rank_of_blocks_that_show_no_attention_is_an_error() -> None:
    model = build("mamba")
    with pytest.raises(
        InputError, match=r"choose: rank: block 0 shows no attention weights.*give auto, influence or loss"
    ):
        choose(model, layers=2, choose="rank")
    for by in ("auto", "influence", "loss"):
        assert len(choose(model, layers=2, choose=by)["blocks"]) == 2


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match="5 blocks asked for, the reference has 4"):
        choose(build("llama"), layers=5, choose="auto")


def test_blocks_that_would_change_in_their_new_place_are_not_taken() -> None:
    """DiffLlama computes a constant from a block's number, so only prefixes are targets: auto drops from the end."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = build("diffllama", vocab_size=67, num_hidden_layers=4, max_position_embeddings=64, **sizes)
    found = choose(model, layers=2, choose="auto")
    inheritune.inherit(model, found["blocks"])
