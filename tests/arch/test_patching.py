"""Blocks' forwards, replaced and given back."""

import pytest
import torch
from torch import nn

from inheritune.arch import hidden_of, keep_outputs, replace_forwards, replaced_forwards, with_hidden


def test_each_place_of_a_block_has_its_own_forward_in_turn() -> None:
    first, second = nn.Identity(), nn.Identity()
    blocks, calls = [first, second, first], []

    def new(place: int, own: object) -> object:
        return lambda x: (calls.append(place), x + place)[1]

    with replaced_forwards(blocks, new):  # type: ignore[arg-type]
        for _ in range(2):
            x = torch.zeros(1)
            for block in blocks:
                x = block(x)
            assert x.item() == 3
    assert calls == [0, 1, 2, 0, 1, 2]
    assert all("forward" not in vars(block) for block in blocks)


def test_forwards_come_back_after_an_error_and_in_layers() -> None:
    block = nn.Identity()
    undo = replace_forwards([block, block], lambda one, own: lambda x: own(x) + 1)
    with pytest.raises(ZeroDivisionError), replaced_forwards([block], lambda place, own: lambda x: own(x) / 0):
        raise ZeroDivisionError
    assert block(torch.zeros(1)).item() == 1
    undo()
    assert block(torch.zeros(1)).item() == 0


def test_outputs_are_kept_by_number() -> None:
    kept: dict[int, torch.Tensor] = {}
    blocks = [nn.Linear(2, 2) for _ in range(3)]
    undo = keep_outputs(blocks, {2, 0}, kept)
    found = nn.Sequential(*blocks)(torch.ones(1, 2))
    assert kept.keys() == {0, 2}
    assert torch.equal(kept[2], found)
    undo()
    assert all("forward" not in vars(block) for block in blocks)


def test_hidden_states_are_the_first_tensor() -> None:
    hidden, other = torch.zeros(2), torch.ones(2)
    assert hidden_of((hidden, other)) is hidden
    assert hidden_of((other,), {"hidden_states": hidden}) is hidden
    assert hidden_of((), {"mask": None, "hidden_states": hidden, "x": other}) is hidden
    assert with_hidden((hidden, None, 3), other) == (other, None, 3)
    assert with_hidden(hidden, other) is other
