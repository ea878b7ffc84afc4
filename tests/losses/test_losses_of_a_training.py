"""Losses in a training: weights over time, masks, hidden states of a teacher, parameters that losses own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matching import Matching
from transformers import GPT2Config, GPT2LMHeadModel

from inheritune import runtime
from inheritune.arch import block_modules, split_head
from inheritune.data import Array, Examples, Packing, Rows, Sequences
from inheritune.distillation import OnlineOutputs
from inheritune.errors import InputError
from inheritune.losses import (
    CrossEntropy,
    Distillation,
    KullbackLeibler,
    Loss,
    LossSetup,
    Ramp,
    RouterBalance,
    TeacherNeeds,
    build_losses,
    weight_at,
)
from inheritune.recipe import Training, check
from inheritune.runlog import read_metrics
from inheritune.training import Job, Objective, list_checkpoints, train_steps
from inheritune.training.checkpoint import stored_shapes
from processes import in_processes

LENGTH, STEPS = 8, 6
HERE = runtime.start("cpu")
TREE = {
    "length": f"{STEPS} steps", "batch": "4 sequences", "sequence_length": LENGTH, "micro_batch": 2, "precision": "float32",
    "compile": False, "checkpoint": {"every": "2 steps", "keep": 9}, "optimizer": {"learning_rate": 0.01},
    "schedule": {"name": "constant", "warm_up": "1 steps"},
}  # fmt: skip


def model(seed: int = 3, width: int = 16, blocks: int = 2) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_positions": 16, "n_embd": width, "n_layer": blocks, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, **sizes, **none))


def sequences() -> Sequences:
    row = np.cumsum(np.random.default_rng(0).integers(1, 4, 401)) % 40
    return Sequences(row.astype(np.uint16), LENGTH, "test")


def train(
    folder: Path,
    trained: Any,
    losses: list[Loss],
    teacher: Any = None,
    parallel: str = "auto",
    text: Sequences | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    falling = iter(range(9, 0, -1))
    job = Job(
        label="test", model=trained, sequences=text or sequences(), settings=check(Training, TREE | more, "train"), seed=5,
        folder=folder, runtime=runtime.start("cpu", 1), validate=lambda score: next(falling),
        validate_every=3, blocks=block_modules(trained), head=split_head(trained), losses=tuple(losses), teacher=teacher,
        parallel=parallel,
    )  # fmt: skip
    train_steps(job)
    return [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


def a_teacher(needs: TeacherNeeds) -> OnlineOutputs:
    return OnlineOutputs(model(seed=7, width=24, blocks=3), needs, HERE, "float32")


def matched(folder: Path, **more: Any) -> tuple[GPT2LMHeadModel, Matching, list[dict[str, Any]]]:
    trained, loss = model(), Matching(16, 24)
    return trained, loss, train(folder, trained, [CrossEntropy(), loss], a_teacher(loss.needs), **more)


@pytest.mark.parametrize(("over", "expected"), [
    ("4 steps", [1.0, 0.8, 0.6, 0.4, 0.4, 0.4]), ("50%", [1.0, 0.7, 0.4, 0.4, 0.4, 0.4]),
    ("100%", [1.0, 0.88, 0.76, 0.64, 0.52, 0.4]), ("1 steps", [0.4] * 6), ("64 tokens", [1.0, 0.4, 0.4, 0.4, 0.4, 0.4]),
])  # fmt: skip
def test_a_ramp_is_a_straight_line_and_then_constant(over: str, expected: list[float]) -> None:
    ramp = Ramp.model_validate({"start": 1.0, "end": 0.4, "over": over})
    assert [weight_at(ramp, step, 6, 32) for step in range(6)] == pytest.approx(expected)
    assert weight_at(0.7, 3, 6, 32) == 0.7


def test_a_share_that_changes_is_that_of_each_step_and_survives_a_stop(tmp_path: Path) -> None:
    share = {"start": 1.0, "end": 0.0, "over": "5 steps"}
    settings = Distillation.model_validate({"student": share, "temperature": 2.0})

    def run(folder: Path, **more: Any) -> list[dict[str, Any]]:
        losses = build_losses(Training.model_validate({"length": "1 steps", "distillation": settings}), LossSetup())
        needs = TeacherNeeds.of(losses)
        assert (needs.temperature, needs.top_k) == (2.0, None)
        return train(folder, model(), losses, a_teacher(needs), **more)

    records = run(tmp_path / "whole")
    for number, record in enumerate(records):
        student = max(0.0, 1 - number / 4)
        expected = student * record["cross_entropy"] + (1 - student) * 4 * record["kl"]
        assert record["loss"] == pytest.approx(expected, rel=1e-5)
    for step in list_checkpoints(tmp_path / "whole" / "checkpoints")[1:]:  # as if stopped before
        (tmp_path / "whole" / "checkpoints" / f"step-{step:09d}" / "checkpoint.json").unlink()
    (tmp_path / "whole" / "checkpoints" / "best" / "checkpoint.json").unlink(missing_ok=True)
    again = run(tmp_path / "whole")
    assert [record["loss"] for record in again] == [record["loss"] for record in records]


def test_shares_that_make_no_sense() -> None:
    for wrong, said in (
        ({"start": 1, "end": 1}, "the teacher would have no share"), ({"start": 2, "end": 0}, "a share is at most 1"),
        ({"start": 1}, "student.end' is missing"), ({"start": 1, "end": 0, "over": "5 epochs"}, "unit 'epochs' is not legal"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            check(Training, TREE | {"distillation": {"student": wrong}}, "train")


def test_a_router_loss_with_a_weight_of_the_recipes_own() -> None:
    class Term:
        weight = 0.3

        def __call__(self, router_logits: Any, counts_BT: torch.Tensor) -> torch.Tensor:
            return torch.tensor(2.0)

    for given, expected in ((True, 0.3), ("auto", 0.3), (0.5, 0.5), ({"start": 1, "end": 0}, Ramp(start=1, end=0))):
        losses = build_losses(check(Training, TREE | {"router_loss": given}, "train"), LossSetup(Term()))
        assert isinstance(losses[1], RouterBalance)
        assert losses[1].weight == expected


class MaskedRows(Rows):
    """As with chat data: of some sequences only the last tokens are learnt."""

    def examples(self) -> Examples:
        examples = super().examples()
        for row in examples.targets:
            row[: int(row[0]) % LENGTH] = -100
        return examples


class Masked(Sequences):
    def windows(self, starts: Array) -> Rows:
        return MaskedRows(super().windows(starts).windows)


def test_a_masked_target_counts_nothing_and_the_loss_is_the_mean_of_the_others(tmp_path: Path) -> None:
    text = Masked(sequences().tokens, LENGTH, "test")
    trained, first = model(), []
    start = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    records = train(tmp_path / "one", trained, [CrossEntropy()], text=text, length="1 steps")
    again = model()
    again.load_state_dict(start)
    from inheritune.data import batch_numbers

    examples = text.rows(batch_numbers(0, 4, text.count, 5)).examples()
    counts = examples.counts.tolist()
    assert len(set(counts)) > 1
    with torch.no_grad():
        logits = again(examples.inputs).logits.double()
    for b, t in (examples.targets >= 0).nonzero().tolist():
        first.append(-torch.log_softmax(logits[b, t], 0)[examples.targets[b, t]].item())
    assert len(first) == sum(counts)
    assert records[0]["loss"] == pytest.approx(sum(first) / len(first), rel=1e-5)
    other = train(tmp_path / "two", model(), [CrossEntropy()], text=text, length="1 steps", micro_batch=4)
    assert other[0]["loss"] == pytest.approx(records[0]["loss"], rel=1e-6)


def test_hidden_states_of_given_blocks_come_from_model_and_teacher() -> None:
    trained, loss = model(), Matching(16, 24, block=1, teacher_block=0)
    teacher = model(seed=7, width=24, blocks=3)
    outputs = OnlineOutputs(model(seed=7, width=24, blocks=3), loss.needs, HERE, "float32")
    objective = Objective(trained, split_head(trained), [CrossEntropy(), loss], outputs, block_modules(trained))
    assert objective.terms == ("cross_entropy", "matching")
    examples = sequences().rows([1, 5, 7]).examples()
    examples.targets[1] = -100
    with torch.no_grad():
        total, entropy, value = objective(examples.inputs, examples.targets).tolist()
        seen: list[torch.Tensor] = []
        for one, block in ((trained, 1), (teacher.eval(), 0)):
            hook = one.transformer.h[block].register_forward_hook(
                lambda m, i, out: seen.append(out if torch.is_tensor(out) else out[0])
            )
            one(examples.inputs)
            hook.remove()
    apart = (torch.nn.functional.pad(seen[0], (0, 8)) - seen[1])[[0, 2]].square().sum().item()
    assert value == pytest.approx(apart, rel=1e-5)
    assert total == pytest.approx(entropy + 0.5 * value, rel=1e-5)
    objective.release()
    assert all("forward" not in vars(block) for block in trained.transformer.h)


def test_places_align_hidden_states_with_the_predicted_tokens() -> None:
    """With a prefix before each document, sequences are longer than what they predict."""
    row = np.arange(401, dtype=np.uint16) % 40
    text = Sequences(row, LENGTH, "test", packing=Packing((2, 3), 5))
    examples = text.rows([0, 3]).examples()
    assert examples.places is not None
    trained, loss = model(), Matching(16, 24)
    objective = Objective(
        trained, split_head(trained), [CrossEntropy(), loss], a_teacher(loss.needs), block_modules(trained)
    )
    given = {"positions": examples.positions, "places": examples.places}
    expected = objective(examples.inputs, examples.targets, **given)
    moved = examples.inputs.clone()
    longest = int(examples.places.max())
    moved[:, longest + 1 :] = 1  # what predicts nothing may be anything
    torch.testing.assert_close(objective(moved, examples.targets, **given), expected)


def test_a_losss_own_parameters_are_trained_and_not_saved_with_the_model(tmp_path: Path) -> None:
    trained, loss = model(), Matching(16, 24, weight=100.0)
    records = train(tmp_path, trained, [CrossEntropy(), loss], a_teacher(loss.needs))
    assert loss.module is not None
    assert not torch.equal(loss.module.weight, torch.eye(24, 16))
    assert records[-1]["matching"] < records[0]["matching"]
    assert set(records[0]) >= {"cross_entropy", "matching"}
    assert trained.state_dict().keys() == model().state_dict().keys()
    stored = stored_shapes(tmp_path / "checkpoints" / f"step-{STEPS:09d}")
    assert stored["losses/matching.weight"] == (24, 16)
    assert stored["losses-optimizer/matching.weight/exp_avg"] == (24, 16)
    assert not any(name.startswith("losses") for name in stored_shapes(tmp_path / "checkpoints" / "best"))


@pytest.mark.parametrize("more", [{}, {"optimizer": {"name": "muon"}, "activation_checkpointing": True}])
def test_a_training_whose_loss_has_parameters_resumes_with_the_same_bits(tmp_path: Path, more: dict[str, Any]) -> None:
    if more:
        more = {**more, "optimizer": {"name": "adamw", "learning_rate": 0.02}}
    _, whole, expected = matched(tmp_path / "whole", **more)
    matched(tmp_path / "killed", **more)
    for step in list_checkpoints(tmp_path / "killed" / "checkpoints")[2:]:
        (tmp_path / "killed" / "checkpoints" / f"step-{step:09d}" / "checkpoint.json").unlink()
    _, loss, again = matched(tmp_path / "killed", **more)
    assert [one["loss"] for one in again] == [one["loss"] for one in expected]
    assert whole.module is not None
    assert loss.module is not None
    assert torch.equal(whole.module.weight, loss.module.weight)


KILLED = """
import os, sys
sys.path[:0] = [{here!r}, {tests!r}, {families!r}]
from pathlib import Path
from test_losses_of_a_training import Stepper_launch, matched
Stepper_launch(int(sys.argv[2]))
matched(Path(sys.argv[1]))
"""


def Stepper_launch(last: int) -> None:
    """End this process, as a kill does, when step `last` is about to begin."""
    import os

    from inheritune.training.step import Stepper

    plain = Stepper.launch

    def launch(stepper: Stepper, step: int, *given: Any) -> Any:
        if step == last:
            os._exit(9)
        return plain(stepper, step, *given)

    Stepper.launch = launch  # type: ignore[method-assign]


@pytest.mark.long
def test_killed_and_begun_again_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    _, whole, expected = matched(tmp_path / "whole")
    here = Path(__file__).parent
    code = KILLED.format(here=str(here), tests=str(here.parent), families=str(here.parent / "families"))
    command = [sys.executable, "-c", code, str(tmp_path / "killed"), "5"]
    assert subprocess.run(command, check=False).returncode == 9
    _, loss, again = matched(tmp_path / "killed")
    assert [one["loss"] for one in again] == [one["loss"] for one in expected]
    assert whole.module is not None
    assert loss.module is not None
    assert torch.equal(whole.module.weight, loss.module.weight)


def on_two(rank: int, work: Any, folder: str, *given: Any) -> None:
    from test_parallel import process

    process(rank, work, folder, *given)


def agrees(rank: int, folder: Path, losses: list[float], weight: torch.Tensor) -> None:
    for parallel in ("ddp", "fsdp"):
        _, loss, records = matched(folder / parallel, parallel=parallel)
        assert [one["loss"] for one in records] == pytest.approx(losses, abs=1e-4)
        assert loss.module is not None
        found = loss.module.weight
        assert hasattr(found, "full_tensor") == (parallel == "fsdp")
        torch.testing.assert_close(
            getattr(found, "full_tensor", lambda found=found: found)().detach(), weight, atol=1e-4, rtol=0
        )
        _, loss, _ = matched(folder / parallel, parallel=parallel)  # read back


@pytest.mark.long
def test_on_two_processes_they_are_sharded_or_replicated_like_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    _, loss, records = matched(tmp_path / "one")
    assert loss.module is not None
    in_processes(on_two, agrees, str(tmp_path), [one["loss"] for one in records], loss.module.weight.detach())


def test_different_distributions_cannot_be_asked_of_one_teacher() -> None:
    losses = [KullbackLeibler(Distillation(temperature=t)) for t in (1.0, 2.0)]
    with pytest.raises(ValueError, match="different temperatures"):
        TeacherNeeds.of(losses)


@pytest.mark.long
def test_a_file_in_the_package_is_a_loss_with_a_key_of_train(tmp_path: Path) -> None:
    """What adding a loss takes: here the file of `matching` in a folder that belongs to the package."""
    (tmp_path / "matching.py").write_text((Path(__file__).parent / "matching.py").read_text())
    code = f"""
import importlib.util, sys, json
spec = importlib.util.find_spec("inheritune.losses")
spec.submodule_search_locations.append({str(tmp_path)!r})
module = importlib.util.module_from_spec(spec)
sys.modules["inheritune.losses"] = module
spec.loader.exec_module(module)
from inheritune.recipe import Training, check
from inheritune.cli.description import describe
settings = check(Training, {{"length": "5 steps", "matching": True}}, "train")
print(json.dumps([settings.matching, settings.needs_teacher, "Learn the teacher's hidden states too." in describe()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True, True]
    with pytest.raises(InputError, match="unknown key 'matching'"):
        check(Training, TREE | {"matching": True}, "train")
