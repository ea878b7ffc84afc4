"""Invariants 1 and 2 of the design, for every family: the prefix computes what it did, and what is saved is complete."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_families import DEPTH, FAMILIES, build, logits_of, logits_through, some_tokens
from transformers import AutoModelForCausalLM, PreTrainedModel

from inheritune.arch import find_structure, save_model
from inheritune.inheritance import derive, inherit, make_wish

_BUILT: dict[str, PreTrainedModel] = {}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost these models far more than they save, on a busy machine most of all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(FAMILIES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reference(kind: str) -> PreTrainedModel:
    """The family's random model, built once; no test may change it."""
    if kind not in _BUILT:
        _BUILT[kind] = build(kind)
    return _BUILT[kind]


def logits_at(model: PreTrainedModel, kind: str, count: int, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Norm and head, applied by hand to the hidden state after `count` blocks."""
    family = FAMILIES[kind]
    seen: list[torch.Tensor] = []
    block = model.get_submodule(f"{family.blocks}.{count - 1}")
    hook = block.register_forward_hook(lambda _, __, got: seen.append(got if torch.is_tensor(got) else got[0]))
    logits_of(model, tokens_BT)
    hook.remove()
    with torch.no_grad():
        return family.after_head(model.get_output_embeddings()(model.get_submodule(family.norm)(seen[0])))


def realigned(model: PreTrainedModel) -> PreTrainedModel:
    """Tensors moved out of the mapped file: some kernels sum in another order where memory is aligned otherwise."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model


def stored_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as opened:
            found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return found


def test_hand_made_logits_are_the_model_s_own_at_full_depth(kind: str, reference: PreTrainedModel) -> None:
    """Guards the yardstick of this file, not the project."""
    tokens_BT = some_tokens()
    torch.testing.assert_close(
        logits_at(reference, kind, DEPTH, tokens_BT), logits_of(reference, tokens_BT), rtol=0, atol=1e-5
    )
    shallow = logits_at(reference, kind, DEPTH - 1, tokens_BT)
    assert (shallow - logits_of(reference, tokens_BT)).abs().max() > 0.01


@pytest.mark.parametrize("count", range(1, DEPTH + 1))
def test_prefix_gives_the_logits_of_norm_and_head_at_that_depth(
    kind: str, reference: PreTrainedModel, count: int
) -> None:
    tokens_BT = some_tokens()
    target = inherit(reference, count)
    assert target.dtype == torch.float32
    assert not target.training
    found = logits_of(target, tokens_BT)
    torch.testing.assert_close(found, logits_at(reference, kind, count, tokens_BT), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, logits_through(reference, kind, list(range(count)), tokens_BT), rtol=0, atol=1e-5)


def test_all_blocks_are_the_reference_bit_for_bit(kind: str, reference: PreTrainedModel) -> None:
    tokens_BT = some_tokens()
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    target, plan = derive(reference, make_wish(DEPTH))
    assert plan.dropped == ()
    found = target.state_dict()
    assert found.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(found[name], tensor), name
        assert torch.equal(reference.state_dict()[name], tensor), f"{name} of the reference has changed"
    assert torch.equal(logits_of(target, tokens_BT), logits_of(reference, tokens_BT))
    assert target.config.to_dict() == reference.config.to_dict()


def test_no_memory_is_shared_with_the_reference(kind: str, reference: PreTrainedModel) -> None:
    mine = {tensor.data_ptr() for tensor in inherit(reference, 2).parameters()}
    assert not mine & {tensor.data_ptr() for tensor in reference.parameters()}


def test_blocks_are_found_where_the_architecture_has_them(kind: str, reference: PreTrainedModel) -> None:
    structure = find_structure(reference)
    assert (structure.blocks, structure.count) == (FAMILIES[kind].blocks, DEPTH)


@pytest.mark.parametrize("count", range(1, DEPTH + 1))
def test_saved_target_is_a_whole_checkpoint(kind: str, reference: PreTrainedModel, count: int, tmp_path: Path) -> None:
    tokens_BT = some_tokens()
    target = inherit(reference, count)
    save_model(target, None, tmp_path / "model")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    loaded = realigned(loaded.eval())
    assert not any(info.values()), "tensors missing, left over or of another shape"
    assert type(loaded).__module__.startswith("transformers.")
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    assert len(loaded.get_submodule(FAMILIES[kind].blocks)) == loaded.config.num_hidden_layers == count
    assert torch.equal(logits_of(loaded, tokens_BT), logits_of(target, tokens_BT))
    _check_ties(reference, loaded, stored_tensors(tmp_path / "model"))
    _check_lists(reference, json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8")), count)
    _check_generation(loaded)


def _check_ties(reference: PreTrainedModel, loaded: PreTrainedModel, stored: dict[str, tuple[int, ...]]) -> None:
    """A tied matrix is one tensor, in memory and on disk; an untied one is two."""

    def is_tied(model: PreTrainedModel) -> bool:
        return model.get_output_embeddings().weight is model.get_input_embeddings().weight

    assert is_tied(loaded) == is_tied(reference) == bool(reference.config.tie_word_embeddings)
    matrices = Counter(stored.values())[tuple(loaded.get_input_embeddings().weight.shape)]
    assert matrices == (1 if is_tied(reference) else 2)


def _check_lists(reference: PreTrainedModel, saved: dict[str, Any], count: int) -> None:
    """Every list of the reference's config with an entry a block is as long as the target is deep."""
    for name, value in reference.config.to_dict().items():
        if isinstance(value, list) and len(value) == DEPTH:
            assert saved[name] == value[:count], name


def _check_generation(model: PreTrainedModel) -> None:
    """Greedy, past the sliding windows, with the cache and without: the same tokens from the same logits."""
    options: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    prompt_BT = some_tokens(length=4)
    with_cache, without = (
        model.generate(
            prompt_BT,
            attention_mask=torch.ones_like(prompt_BT),
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), rtol=0, atol=1e-4)
