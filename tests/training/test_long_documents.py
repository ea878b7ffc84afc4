"""Attention inside documents in sequences longer than a window, a chunk or the original length of the positions."""

from typing import Any

import pytest
import torch
from tiny import tiny_config
from transformers import AutoModelForCausalLM, masking_utils

from inheritune.arch import find_structure
from inheritune.errors import InputError
from inheritune.training import Objective, check_documents_apart
from inheritune.training.documents import document_positions

END, LENGTH, LIMIT = 1, 48, 16

_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": LIMIT,
    "factor": 4.0,
    **_FACTORS,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": LIMIT}
_LLAMA3 = _YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_NO_ROPE = {"layer_types": ["full_attention"] * 6, "no_rope_layers": [0] * 6, "attention_chunk_size": 64}

# What changes at LIMIT tokens: the model's type and fields.
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("phi3", {"rope_parameters": _LONG, "original_max_position_embeddings": LIMIT}),
    "longrope of a Llama": ("llama", {"rope_parameters": _LONG}),
    "dynamic": ("llama", {"rope_parameters": _DYNAMIC, "max_position_embeddings": LIMIT}),
    # the token at place LIMIT, counted from 0, is the first that is scaled otherwise
    "temperature": ("llama4_text", {"floor_scale": LIMIT + 1, "attn_scale": 5.0, "moe_layers": [], **_NO_ROPE}),
}
RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("mistral", {"sliding_window": LIMIT}),
    "windows and full attention": ("gemma2", {"sliding_window": LIMIT}),
    "chunks": ("llama4_text", {"attention_chunk_size": LIMIT, "moe_layers": [], "floor_scale": 8192}),
    "windows with sinks": ("gpt_oss", {"sliding_window": LIMIT}),
    "yarn": ("llama", {"rope_parameters": _YARN}),
    "llama3": ("llama", {"rope_parameters": _LLAMA3}),
    "plain": ("qwen3", {}),
}


def build(kind: str, fields: dict[str, Any]) -> Any:
    config = tiny_config(kind, **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def difference(model: Any, length: int) -> float:
    """The largest difference in the loss of a token, packed and alone: a row of short documents, and a long one."""
    rows = torch.randint(3, 60, (2, length + 1), generator=torch.Generator().manual_seed(2))
    rows[1, length // 4] = END
    spans = [(0, 0, length), (1, 0, length // 4 + 1), (1, length // 4 + 1, length)]
    largest = 0.0
    with torch.no_grad():
        model(input_ids=rows[:1, :3], use_cache=False)  # dynamic positions forget what they have seen
        positions = document_positions(rows[:, :-1], END)
        packed = Objective(model)(rows[:, :-1], rows[:, 1:], positions=positions, by_token=True)
        for number, begin, end in spans:
            model(input_ids=rows[:1, :3], use_cache=False)
            logits = model(input_ids=rows[number : number + 1, begin:end], use_cache=False).logits[0]
            alone = torch.nn.functional.cross_entropy(logits, rows[number, begin + 1 : end + 1], reduction="none")
            largest = max(largest, (packed[number, begin:end] - alone).abs().max().item())
    return largest


@pytest.mark.parametrize("name", WRONG)
def test_models_that_go_wrong_in_long_sequences_are_refused_there_alone(name: str) -> None:
    model = build(*WRONG[name])
    assert difference(model, LENGTH) > 1e-2
    assert difference(model, LIMIT) < 1e-4
    said = rf"here: \w+ does not keep documents apart in sequences of more than {LIMIT} tokens; set train\.attention to"
    with pytest.raises(InputError, match=rf"{said} sequence, or train\.sequence_length to at most {LIMIT}"):
        check_documents_apart(model, END, LENGTH, "here")
    with pytest.raises(InputError, match="does not keep documents apart"):
        check_documents_apart(model, END, LIMIT + 1, "here")
    check_documents_apart(model, END, LIMIT, "here")


def test_a_convolution_that_reaches_back_a_single_token_is_found() -> None:
    """Only the first token of the second document is another, in a model whose tokens do not attend to each other."""
    model = build("llama", {})
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    check_documents_apart(model, END, LENGTH, "here")

    def shifted(_: Any, __: Any, found: torch.Tensor) -> torch.Tensor:
        return found + torch.nn.functional.pad(found, (0, 0, 1, 0))[:, :-1]

    model.get_input_embeddings().register_forward_hook(shifted)
    with pytest.raises(InputError, match="does not keep the documents of a sequence apart"):
        check_documents_apart(model, END, LENGTH, "here")


def test_nothing_stays_of_what_was_tried() -> None:
    model = build(*WRONG["dynamic"])
    tokens = torch.randint(3, 60, (1, LIMIT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(input_ids=tokens, use_cache=False).logits
        with pytest.raises(InputError, match="does not keep documents apart"):
            check_documents_apart(model, END, LENGTH, "here")
        assert torch.equal(model(input_ids=tokens, use_cache=False).logits, before)


@pytest.mark.parametrize("name", RIGHT)
def test_others_are_not(name: str) -> None:
    model = build(*RIGHT[name])
    assert difference(model, LENGTH) < 1e-4
    check_documents_apart(model, END, LENGTH, "here")


def test_no_more_is_computed_than_can_matter() -> None:
    """Long documents only where the length matters, and then on blocks of each kind alone, once for a config."""
    seen: list[tuple[int, int]] = []

    def note(module: Any, _: Any, named: dict[str, Any]) -> None:
        seen.append((named["input_ids"].shape[1], len(module.layers)))

    def tried(kind: str, fields: dict[str, Any]) -> set[tuple[int, int]]:
        model = build(kind, fields)
        structure = find_structure(model)
        owner = model.get_submodule(structure.blocks.rpartition(".")[0])
        owner.register_forward_pre_hook(note, with_kwargs=True)
        seen.clear()
        check_documents_apart(model, END, LENGTH, "here")
        assert len(model.get_submodule(structure.blocks)) == structure.count
        return {(length, blocks) for length, blocks in seen if length > 12}

    assert not tried(*RIGHT["plain"])
    assert not tried(*RIGHT["yarn"])
    windows = {"sliding_window": LIMIT + 4}
    assert tried("gemma2", windows) == {(LIMIT + 4 + 16, 2), (17, 2), (LIMIT + 3, 2), (26, 2)}
    assert not tried("gemma2", windows)


def test_chunks_that_begin_with_the_sequence_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in transformers 5.21 and 5.22: a document in the middle of a chunk ends its attention with that chunk."""

    def of_sequence(**given: Any) -> torch.Tensor:
        allowed = masking_utils.create_causal_mask(**given)
        chunks_T = torch.arange(allowed.shape[-1]) // LIMIT
        return allowed & (chunks_T == chunks_T[:, None])

    patterns = masking_utils.LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING
    monkeypatch.setitem(patterns, "chunked_attention", of_sequence)
    model = build(*RIGHT["chunks"])
    assert difference(model, LENGTH) > 1e-2
    for length in (LIMIT + 1, LIMIT + 5, LIMIT + 9):  # what has passed for this config is not tried again
        with pytest.raises(InputError, match=f"does not keep documents apart in sequences of more than {LIMIT} tokens"):
            check_documents_apart(model, END, length, "here")
