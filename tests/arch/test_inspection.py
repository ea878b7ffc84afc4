"""What the reading of a model's code finds, and what it lets pass, on small models made here."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from inheritune.arch import Structure, find_structure
from inheritune.arch.inspection import uses_of_place
from inheritune.arch.structure import check_place
from inheritune.errors import InputError


class Block(nn.Module):
    """Does with its number what every block does: caches, and asks the config what it is."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.linear = nn.Linear(2, 2)
        self.scale = 1 / (layer_idx + 1)  # leaves its trace in the block, so it is not this module's business

    def forward(self, hidden: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        if self.layer_idx is None:
            raise ValueError(f"no number: {self.layer_idx}")
        if past_key_values is not None:
            hidden, _ = past_key_values.update(hidden, hidden, self.layer_idx)
        if self.config.layer_types[self.layer_idx] == "other":
            return hidden
        return self.linear(hidden)


class Dividing(Block):
    def forward(self, hidden: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return self.linear(hidden) / self._divisor()

    def _divisor(self) -> int:
        return self.layer_idx + 1


class Handing(Block):
    """Hands its number on under another name."""

    def forward(self, hidden: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return self.linear(hidden) * self._scale(self.layer_idx)

    def _scale(self, number: int) -> float:
        return 1 / (1 + number)


class Averaging(Block):
    def forward(self, hidden: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return self.linear(hidden) / self.config.num_hidden_layers


class Model(nn.Module):
    """Runs its blocks one after the other, and looks up what belongs to each."""

    def __init__(self, block: type[Block] = Block, count: int = 3) -> None:
        super().__init__()
        self.config = CONFIG_MAPPING["gpt2"](n_layer=count)
        self.layers = nn.ModuleList(block(self.config, number) for number in range(count))

    def forward(self, hidden: Any, past_key_values: Any = None) -> Any:
        masks = {"full": None}
        for i, layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            hidden = layer(hidden, past_key_values=past_key_values, mask=masks[self.config.layer_types[i]])
        return hidden


class Alternating(Model):
    def forward(self, hidden: Any, past_key_values: Any = None) -> Any:
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden) if i % 2 else -layer(hidden)
        return hidden


class Carrying(Model):
    def forward(self, hidden: Any, past_key_values: Any = None) -> Any:
        choice = None
        for layer in self.layers:
            hidden, choice = layer(hidden, choice=choice)
        return hidden


def made_while_running() -> type[Block]:
    """A class that stands nowhere in a file by its name, as those that a library puts together."""

    class Made(Block):
        def forward(self, hidden: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            return self.linear(hidden) * self.layer_idx

    return Made


class Indexing(Model):
    def forward(self, hidden: Any, past_key_values: Any = None) -> Any:
        for i in range(3):
            hidden = self.layers[i](hidden) * i
        return hidden


def found(model: nn.Module) -> list[tuple[str, bool]]:
    return [(use.text, use.of_depth) for use in uses_of_place(model, "layers")]  # type: ignore[arg-type]


def test_slots_kinds_and_messages_are_no_use() -> None:
    assert found(Model()) == []


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(Dividing), ("Dividing: self.layer_idx + 1", False)),
        (Model(Handing), ("Handing: self.linear(hidden) * self._scale(self.layer_idx)", False)),
        (Model(Averaging), ("Averaging: self.linear(hidden) / self.config.num_hidden_layers", True)),
        (Alternating(), ("Alternating: layer(hidden) if i % 2 else -layer(hidden)", False)),
        (Model(made_while_running()), ("Made: its code cannot be read", False)),
        (Indexing(), ("Indexing: its loop over the blocks cannot be found", False)),
        (Carrying(), ("Carrying: choice goes from block to block", False)),
    ],
)
def test_other_uses_are_found_and_named(model: nn.Module, expected: tuple[str, bool]) -> None:
    assert found(model) == [expected]


def test_a_model_that_uses_places_gives_prefixes_only() -> None:
    structure = Structure("layers", 3)
    for free in (Model(), Model(Dividing)):
        check_place(free, structure, [0, 1])  # type: ignore[arg-type]
    check_place(Model(), structure, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"depends on a block's place \(Dividing.*choose: first"):
        check_place(Model(Dividing), structure, [1, 2])  # type: ignore[arg-type]


def test_a_model_that_uses_its_depth_is_taken_whole_or_not() -> None:
    structure = Structure("layers", 3)
    check_place(Model(Averaging), structure, [0, 1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"depends on the number of blocks \(Averaging.*take all blocks"):
        check_place(Model(Averaging), structure, [0, 1])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3_next", "mixtral", "gemma3_text", "bloom", "mamba2"])
def test_ordinary_architectures_are_free(kind: str) -> None:
    sizes = {"num_hidden_layers": 2, "vocab_size": 9}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes))
    assert uses_of_place(model, find_structure(model).blocks) == ()


def test_weights_that_a_forward_pass_has_scaled_are_refused() -> None:
    model = Model()
    model.config.rescale_every = 2
    model.layers_are_rescaled = True
    with pytest.raises(InputError, match="has scaled its weights"):
        check_place(model, Structure("layers", 3), [0])  # type: ignore[arg-type]
