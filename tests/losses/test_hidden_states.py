"""The distance of hidden states from a teacher's, against plain transformers and formulas written out token by token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_losses_of_a_training import LENGTH, Masked, on_two, sequences, train
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from inheritune import runtime
from inheritune.arch import block_modules, split_head
from inheritune.data import Examples, Packing, Sequences, batch_numbers
from inheritune.distillation import OnlineOutputs
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive
from inheritune.losses import Loss, LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Training, check
from processes import in_processes

HERE = runtime.start("cpu")
BLOCKS = 6
TREE = {"length": "1 steps", "batch": "4 sequences", "sequence_length": LENGTH}


def llama(blocks: int = BLOCKS) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=40, **sizes, num_hidden_layers=blocks, max_position_embeddings=32, initializer_range=0.3,
    ))  # fmt: skip


def gpt2() -> PreTrainedModel:
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": BLOCKS, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, **sizes, **none, initializer_range=0.3))


def teacher(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(3)
    return make().eval()


def student(make: Callable[[], PreTrainedModel], kept: list[int]) -> PreTrainedModel:
    """The blocks `kept` of the teacher, moved a little, as if trained."""
    model, _ = derive(teacher(make), TargetSpec(tuple(kept)))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def losses_of(model: Any, other: Any, kept: list[int] | None, student: float = 1, **settings: Any) -> list[Loss]:
    distillation = {"student": student, "hidden_states": {"weight": 10.0} | settings}
    training = check(Training, TREE | {"distillation": distillation}, "train")
    return build_losses(training, LossSetup(None, model.config, other.config, kept))


def objective(model: Any, other: Any, losses: list[Loss]) -> Any:
    from inheritune.training import Objective

    outputs = OnlineOutputs(other, TeacherNeeds.of(losses), HERE, "float32")
    return Objective(model, split_head(model), losses, outputs, block_modules(model))


def states_of(model: Any, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of all blocks: transformers returns them, but for the last one's, which it returns normed."""
    last: list[Any] = []
    hook = block_modules(model)[-1].register_forward_hook(lambda module, args, out: last.append(out))
    found = model(inputs, output_hidden_states=True).hidden_states
    hook.remove()
    return [*found[1:-1], last[0] if torch.is_tensor(last[0]) else last[0][0]]


def slow(
    model: Any, other: Any, inputs: torch.Tensor, targets: torch.Tensor, pairs: dict[int, int], distance: str
) -> torch.Tensor:
    """The sum of the mean distances over blocks, one token at a time, in float64."""
    own = states_of(model, inputs)
    with torch.no_grad():
        theirs = states_of(other, inputs)
    total = torch.zeros((), dtype=torch.float64)
    for b, t in (targets >= 0).nonzero().tolist():
        for place, end in pairs.items():
            s, q = own[place][b, t].double(), theirs[end][b, t].double()
            apart = 1 - s @ q / (s.norm() * q.norm()) if distance == "cosine" else ((s - q) ** 2).mean() / (q**2).mean()
            total = total + apart / len(pairs)
    return total


CASES = [
    ([0, 1, 3], "all", {0: 0, 1: 2, 2: 5}),  # dropped: 2 in the middle, 4 and 5 at the end
    ([0, 1, 3], "gaps", {1: 2, 2: 5}),
    ([2, 3, 5], "all", {0: 2, 1: 4, 2: 5}),  # 0 and 1 at the front, 4 in the middle
    ([2, 3, 5], "gaps", {1: 4}),
    ([2, 3, 4, 5], "all", {0: 2, 1: 3, 2: 4, 3: 5}),  # at the front alone
    ([0], "gaps", {0: 5}),
]


def some_examples() -> Examples:
    examples = sequences().rows([1, 5, 7]).examples()
    examples.targets[1] = -100
    examples.targets[2, :3] = -100
    return examples


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize(("kept", "blocks", "pairs"), CASES)
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_value_and_gradient_are_those_of_the_formula(
    make: Any, kept: list[int], blocks: str, pairs: dict[int, int], distance: str
) -> None:
    model, other, examples = student(make, kept), teacher(make), some_examples()
    losses = losses_of(model, other, kept, blocks=blocks, distance=distance)
    taught = objective(model, other, losses)
    assert taught.terms == ("cross_entropy", "hidden_states")
    total, entropy, value = taught(examples.inputs, examples.targets)
    assert total.item() == pytest.approx(entropy.item() + 10 * value.item(), rel=1e-5)
    total.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in other.parameters())
    taught.release()

    model, other = student(make, kept), teacher(make)
    expected = slow(model, other, examples.inputs, examples.targets, pairs, distance)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert value.item() > 0.01
    logits = model(examples.inputs).logits.flatten(0, 1)
    entropy = torch.nn.functional.cross_entropy(logits, examples.targets.flatten(), reduction="sum")
    (entropy + 10 * expected).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_it_is_added_to_the_divergence() -> None:
    kept, examples = [0, 1, 3], some_examples()
    model, other = student(llama, kept), teacher(llama)
    losses = losses_of(model, other, kept, student=0.25)
    with torch.no_grad():
        total, *parts = objective(model, other, losses)(examples.inputs, examples.targets).tolist()
        p, q = (torch.log_softmax(one(examples.inputs).logits.double(), -1) for one in (teacher(llama), model))
    values = dict(zip([loss.name for loss in losses], parts, strict=True))
    divergence = ((p.exp() * (p - q)).sum(-1) * (examples.targets >= 0)).sum().item()
    assert values["kl"] == pytest.approx(divergence, rel=1e-4)
    mixed = 0.25 * values["cross_entropy"] + 0.75 * divergence + 10 * values["hidden_states"]
    assert total == pytest.approx(mixed, rel=1e-4)


def test_a_prefix_has_no_part_in_it() -> None:
    """With a prefix before each document, only inputs that predict the text's tokens count."""
    row = np.arange(401, dtype=np.uint16) % 40
    examples = Sequences(row, LENGTH, "test", packing=Packing((2, 3), 5)).rows([0, 3]).examples()
    assert examples.places is not None
    kept = [0, 1, 3]
    model, other = student(gpt2, kept), teacher(gpt2)
    taught = objective(model, other, losses_of(model, other, kept))
    given = {"positions": examples.positions, "places": examples.places}
    with torch.no_grad():
        *_, value = taught(examples.inputs, examples.targets, **given).tolist()
    taught.release()
    model, other = student(gpt2, kept), teacher(gpt2)
    targets = torch.full_like(examples.inputs, -100)
    for b, places in enumerate(examples.places.tolist()):
        for place in places:
            if place >= 0 and examples.targets[b, place] >= 0:
                targets[b, place] = 1
    with torch.no_grad():
        expected = slow(model, other, examples.inputs, targets, {0: 0, 1: 2, 2: 5}, "cosine").item()
    assert value == pytest.approx(expected, rel=1e-4)


def shallow_llama() -> PreTrainedModel:
    return llama(2)


def taught_training(
    folder: Path, make: Any = llama, kept: tuple[int, ...] = (0, 1, 3), **more: Any
) -> list[dict[str, Any]]:
    other = teacher(make)
    model = student(make, list(kept))
    losses = losses_of(model, other, list(kept), distance="mse")
    text = Masked(sequences().tokens, LENGTH, "test")  # so that micro-batches have unlike numbers of targets
    outputs = OnlineOutputs(other, TeacherNeeds.of(losses), HERE, "float32")
    return train(folder, model, losses, outputs, text=text, **more)


def test_a_step_has_the_mean_over_its_batch(tmp_path: Path) -> None:
    records = taught_training(tmp_path, length="21 steps")
    examples = Masked(sequences().tokens, LENGTH, "test").rows(batch_numbers(0, 4, 50, 5)).examples()
    counts = examples.counts.tolist()
    assert len(set(counts)) > 1
    model, other = student(llama, [0, 1, 3]), teacher(llama)
    expected = slow(model, other, examples.inputs, examples.targets, {0: 0, 1: 2, 2: 5}, "mse").item() / sum(counts)
    assert records[0]["hidden_states"] == pytest.approx(expected, rel=1e-4)
    values = [one["hidden_states"] for one in records]
    assert sum(values[14:]) < sum(values[:7])


@pytest.mark.parametrize("more", [
    {"micro_batch": 1}, {"micro_batch": 3}, {"activation_checkpointing": True, "micro_batch": 4}, {"parallel": "fsdp"},
], ids=str)  # fmt: skip
def test_nothing_that_only_changes_how_it_is_computed_changes_it(tmp_path: Path, more: dict[str, Any]) -> None:
    check_same(taught_training(tmp_path / "other", **more), taught_training(tmp_path / "plain"))


@pytest.mark.long
def test_compiled_it_is_the_same(tmp_path: Path) -> None:
    shallow: dict[str, Any] = {"make": shallow_llama, "kept": (1,), "length": "3 steps"}  # compiling takes long
    compiled = taught_training(tmp_path / "compiled", compile=True, **shallow)
    check_same(compiled, taught_training(tmp_path / "plain", **shallow))


def check_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one["hidden_states"] == pytest.approx(other["hidden_states"], rel=1e-3)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.parametrize("more", [{}, {"parallel": "fsdp"}], ids=str)
def test_in_bfloat16_it_is_nearly_the_same(tmp_path: Path, more: dict[str, Any]) -> None:
    expected = taught_training(tmp_path / "plain", length="1 steps")
    found = taught_training(tmp_path / "other", length="1 steps", precision="bfloat16", **more)
    assert found[0]["hidden_states"] == pytest.approx(expected[0]["hidden_states"], rel=0.02)


def agrees(rank: int, folder: Path, losses: list[float]) -> None:
    for parallel in ("ddp", "fsdp"):
        records = taught_training(folder / parallel, parallel=parallel)
        assert [one["hidden_states"] for one in records] == pytest.approx(losses, rel=1e-3)


@pytest.mark.long
def test_two_processes_learn_what_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    records = taught_training(tmp_path / "one")
    in_processes(on_two, agrees, str(tmp_path), [one["hidden_states"] for one in records])


def test_states_of_length_0_have_no_gradient_of_nan() -> None:
    from inheritune.losses import LossInputs

    kept = [0, 1, 3]
    _, loss = losses_of(student(llama, kept), teacher(llama), kept, distance="cosine")
    own = {place: torch.zeros(2, 16, requires_grad=True) for place in range(3)}
    theirs = {end: torch.zeros(2, 16) for end in (0, 2, 5)}
    value = loss.of_batch(LossInputs(torch.tensor([1, -100]), torch.ones(1, 2), (), own, theirs))  # type: ignore[attr-defined]
    value.backward()
    assert value.item() == 1.0
    assert all(torch.isfinite(one.grad).all() for one in own.values() if one.grad is not None)


def config(hidden: int = 16, blocks: int = 3) -> LlamaConfig:
    return LlamaConfig(hidden_size=hidden, num_attention_heads=2, num_hidden_layers=blocks)


@pytest.mark.parametrize(("model", "kept", "blocks", "said"), [
    (config(), None, "all", "which of the teacher's 6 blocks the model's 3 are is not known; give a teacher"),
    (config(blocks=4), [0, 1, 0, 1], "all", r"the model's blocks \[0, 1, 0, 1\] are not some of the teacher's 6"),
    (config(), [0, 1, 6], "all", r"\[0, 1, 6\] are not some of the teacher's 6 in their order"),
    (config(hidden=8), [0, 1, 3], "all", "hidden size is 8, the teacher's 16; give a teacher of the model's width"),
    (config(), [3, 4, 5], "gaps", r"\.blocks: gaps, and no block of the teacher's 6 was dropped .* \[3, 4, 5\]; give all"),
])  # fmt: skip
def test_states_that_do_not_match(model: Any, kept: Any, blocks: str, said: str) -> None:
    class Given:
        config = model

    with pytest.raises(InputError, match=rf"^train\.distillation\.hidden_states.*{said}"):
        losses_of(Given, teacher(llama), kept, blocks=blocks)


def test_a_model_as_deep_as_its_teacher_learns_block_by_block() -> None:
    model, other = teacher(llama), teacher(llama)
    _, loss = losses_of(model, other, None)
    assert loss.blocks == loss.needs.hidden_states == frozenset(range(BLOCKS))
