"""Stored hidden states: the distributions, losses and gradients of online ones; of the blocks that are asked for."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from inheritune import runtime
from inheritune.arch import block_modules, split_head
from inheritune.data import Packing, Sequences
from inheritune.distillation import DistillationRequest, OnlineOutputs, StoredOutputs, Teacher
from inheritune.inheritance import TargetSpec, derive
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Training, check
from inheritune.training import Objective

VOCABULARY, LENGTH, BLOCKS, D = 300, 16, 5, 16
BATCH = 8  # as many sequences as the teacher passes at once when outputs are stored, so that sums round alike
HERE = runtime.Runtime("cpu", 1)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": D, "intermediate_size": 24, "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


def llama(**more: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES | more))


def phi() -> PreTrainedModel:
    """Its head has a bias."""
    model = PhiForCausalLM(PhiConfig(**SIZES))
    with torch.no_grad():
        model.lm_head.bias.normal_()
    return model


def gemma2() -> PreTrainedModel:
    """It caps its logits, so these are stored."""
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5))


HEADS: dict[str, tuple[Callable[[], PreTrainedModel], int]] = {
    "untied": (llama, D),
    "tied": (lambda: llama(tie_word_embeddings=True), D),
    "with a bias": (phi, D),
    "scaled": (lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)), D),
    "capped": (gemma2, VOCABULARY),
}


def made(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(3)
    return make().eval()


def text(packing: Packing) -> Sequences:
    row = np.random.default_rng(1).integers(0, VOCABULARY, 400).astype(np.uint16)
    return Sequences(row, LENGTH, "test", packing=packing)


def a_request(
    teacher: PreTrainedModel, kept: list[int], distillation: dict[str, Any], outputs: str,
    packing: Packing | None = None, precision: str = "float32",
) -> DistillationRequest:  # fmt: skip
    tree = {"length": "5 steps", "batch": "8 sequences", "sequence_length": LENGTH, "precision": precision}
    settings = check(Training, tree | {"distillation": distillation | {"outputs": outputs}}, "train")
    student, _ = derive(teacher, TargetSpec(tuple(kept)))
    losses = build_losses(settings, LossSetup(None, student.config, teacher.config, kept))
    return DistillationRequest("arm", settings, text(packing or Packing()), 40, VOCABULARY, TeacherNeeds.of(losses))


def size_of(kept: Path) -> int:
    return sum(file.stat().st_size for file in kept.rglob("*.bin"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("distillation", [{}, {"temperature": 2.0}, {"top_k": VOCABULARY}], ids=str)
def test_distributions_have_the_bits_of_online_ones(
    head: str, precision: str, distillation: dict[str, Any], tmp_path: Path
) -> None:
    make, width = HEADS[head]
    model, found = made(make), {}
    asked = distillation | {"hidden_states": {"weight": 1.0}}
    for way in ("stored", "online"):
        wanted = a_request(model, [0, 1, 3], asked, way, precision=precision)
        outputs, cost = Teacher(model, tmp_path).outputs(wanted, HERE)
        examples = wanted.sequences.rows(range(BATCH)).examples()
        with torch.no_grad():
            taught = outputs(examples.inputs, *outputs.stored(np.arange(BATCH) * LENGTH))
            found[way] = taught.distribution(slice(5, 100)), taught.hidden_states
        head_flops = cost.get("teacher_head_flops")
        has_head = way == "stored" and head != "capped"
        assert head_flops == (40 * LENGTH * 2 * VOCABULARY * (D + (head == "with a bias")) if has_head else None)
    (one, states), (other, expected) = found["stored"], found["online"]
    assert torch.equal(one.log_probabilities, other.log_probabilities)
    assert (one.indices is None) == (other.indices is None) == ("top_k" not in distillation)
    if one.indices is not None and other.indices is not None:
        assert torch.equal(one.indices, other.indices)
    assert states.keys() == expected.keys() == {0, 2, 4}
    for block, tensor in states.items():
        assert tensor.dtype == getattr(torch, precision)
        assert torch.equal(tensor, expected[block])
    assert size_of(tmp_path) == 24 * LENGTH * (width + 3 * D) * (4 if precision == "float32" else 2)


LOSSES: list[dict[str, Any]] = [
    {"student": 0.3},
    {"student": 0.3, "temperature": 2.0},
    {"student": 0.3, "top_k": 290},
    {"student": 0.3, "top_k": 6, "hidden_states": {"weight": 5.0, "distance": "mse"}},
    {"student": 0.3, "hidden_states": {"weight": 5.0}},
    {"student": 1, "hidden_states": {"weight": 5.0, "distance": "mse", "blocks": "gaps"}},
]


@pytest.mark.parametrize("distillation", LOSSES, ids=str)
@pytest.mark.parametrize("packing", [Packing(), Packing((2, 3), 5), Packing((), 5, True), Packing((5,), 5, True)])
def test_losses_and_gradients_are_those_of_online_outputs(
    distillation: dict[str, Any], packing: Packing, tmp_path: Path
) -> None:
    teacher, kept, found = made(llama), [0, 1, 3], {}
    for way in ("stored", "online"):
        wanted = a_request(teacher, kept, distillation, way, packing)
        outputs, _ = Teacher(teacher, tmp_path).outputs(wanted, HERE)
        student, _ = derive(teacher, TargetSpec(tuple(kept)))
        losses = build_losses(wanted.settings, LossSetup(None, student.config, teacher.config, kept))
        objective = Objective(student, split_head(student), losses, outputs, block_modules(student))
        examples = wanted.sequences.rows(range(BATCH)).examples()
        where = {"positions": examples.positions, "places": examples.places}
        values = objective(examples.inputs, examples.targets, *outputs.stored(np.arange(BATCH) * LENGTH), **where)
        values[0].backward()
        found[way] = values.detach(), {name: one.grad for name, one in student.named_parameters()}
    (values, gradients), (expected, others) = found["stored"], found["online"]
    assert values[1:].min() > 0.1
    if distillation.get("top_k") == 6:  # log-probabilities in float16, which has 11 bits
        torch.testing.assert_close(values, expected, rtol=2**-11, atol=0)
        torch.testing.assert_close(gradients, others, rtol=1e-2, atol=1e-2)
    else:
        assert torch.equal(values, expected)
        for name, one in gradients.items():
            assert torch.equal(one, others[name]), name


def test_without_a_divergence_only_states_are_stored(tmp_path: Path) -> None:
    model, asked = made(llama), {"student": 1, "hidden_states": {"weight": 5.0, "blocks": "gaps"}}
    outputs, cost = Teacher(model, tmp_path).outputs(a_request(model, [0, 1, 3], asked, "stored"), HERE)
    assert isinstance(outputs, StoredOutputs)
    assert size_of(tmp_path) == 24 * LENGTH * 2 * D * 4
    assert "teacher_head_flops" not in cost
    _, other = Teacher(model, tmp_path).outputs(a_request(model, [0, 1, 3], asked, "online"), HERE)
    assert other["teacher_flops"] == cost["teacher_flops"] / 24 * 40
    assert size_of(tmp_path) == 24 * LENGTH * 2 * D * 4


def test_what_needs_the_same_shares_it_and_other_blocks_have_their_own(tmp_path: Path) -> None:
    model = made(llama)
    shared, folders = Teacher(model, tmp_path), []
    asked = {"hidden_states": {"weight": 5.0}}
    for kept, more in [
        ([0, 1, 3], asked), ([0, 1, 3], asked | {"temperature": 3.0}), ([0, 2, 4], asked | {"student": 0.1}),
        ([0, 3, 4], asked), ([0, 1, 3], {}), ([0, 2, 4], {"temperature": 3.0}), ([0, 1], {"top_k": 290}),
    ]:  # fmt: skip
        shared.outputs(a_request(model, kept, more, "stored"), HERE)
        folders.append(len(list(tmp_path.glob("*/manifest.json"))))
    assert folders == [1, 1, 2, 3, 4, 4, 4]


def test_the_head_alone_stays_in_memory(tmp_path: Path) -> None:
    """Also where the outputs are there already, and the head's weight is the embeddings'."""
    model = made(lambda: llama(tie_word_embeddings=True))
    blocks: list[weakref.ref[Any]] = []

    class Watched(LlamaForCausalLM):
        def __deepcopy__(self, memo: Any) -> PreTrainedModel:  # the teacher's own weights
            copied = made(lambda: llama(tie_word_embeddings=True))
            blocks.extend(weakref.ref(block) for block in block_modules(copied))
            return copied

    for number in (1, 2):
        outputs, _ = Teacher(Watched(model.config), tmp_path).outputs(a_request(model, [0], {}, "stored"), HERE)
        gc.collect()
        assert len(blocks) == number * BLOCKS
        assert not any(block() is not None for block in blocks)
    examples = text(Packing()).rows([3]).examples()
    found = outputs(examples.inputs, *outputs.stored(np.array([3 * LENGTH]))).distribution(slice(None))
    with torch.no_grad():
        expected = model(examples.inputs).logits[0].log_softmax(-1)
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-4)


def test_logits_are_stored_where_no_linear_layer_makes_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    model = made(gemma2)
    outputs, _ = Teacher(model, tmp_path).outputs(a_request(model, [0], {}, "stored"), HERE)
    assert not isinstance(outputs, OnlineOutputs)
    assert caplog.messages[0] == "arm: the teacher's logits are stored, as no linear layer makes them of hidden states"
    assert size_of(tmp_path) == 24 * LENGTH * VOCABULARY * 4
