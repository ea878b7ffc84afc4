"""Trainings with a teacher through the engine: the loss and its terms, the split of a batch, going on, cost, refusals."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from conftest import read_json, weights
from inheritune import grow, inherit, prepare, train
from inheritune.cli import main
from inheritune.data import Sequences, batch_numbers, open_prepared, train_tokenizer
from inheritune.errors import InputError
from inheritune.results import TrainingResult
from inheritune.runlog import read_metrics

LENGTH, BATCH, STEPS = 16, 6, 5
SETTINGS = {"length": f"{STEPS} steps", "batch": f"{BATCH} sequences", "sequence_length": LENGTH, "micro_batch": 4}
SETTINGS |= {"optimizer": {"learning_rate": 0.01}, "checkpoint": {"every": "2 steps"}}


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def student(reference_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(reference_folder)


@pytest.fixture(scope="module")
def teacher(student: PreTrainedModel) -> PreTrainedModel:
    """Of the same shape as the student, and surer of itself."""
    torch.manual_seed(7)
    made = type(student)(student.config)
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made


def taught(
    student: Any, teacher: Any, data: Path, out: Path, distillation: dict[str, Any], **more: Any
) -> tuple[list[dict[str, Any]], TrainingResult]:
    """Records of the steps, and the training's result."""
    options = {name: more.pop(name) for name in ("seed", "parallel") if name in more}
    settings = SETTINGS | more | {"distillation": distillation}
    _, found = train(student, data, out, settings=settings, teacher=teacher, device="cpu", **options)
    return [record for record in read_metrics(out / "metrics.jsonl") if "loss" in record], found


def slow_terms(student: PreTrainedModel, teacher: PreTrainedModel, data: Path, seed: int, t: float) -> list[float]:
    """Mean cross-entropy and KL of the first batch in float64, from the models' own logits."""
    row = Sequences(open_prepared(data).tokens("train"), LENGTH, "test")
    rows = torch.from_numpy(row.rows(batch_numbers(0, BATCH, row.count, seed)).windows)
    with torch.no_grad():
        own, other = (model.eval()(rows[:, :-1]).logits.double() for model in (student, teacher))
    entropy = torch.logsumexp(own, -1) - own.gather(-1, rows[:, 1:, None])[..., 0]
    p, q = (torch.softmax(logits / t, -1) for logits in (other, own))
    return [entropy.mean().item(), (p * (p / q).log()).sum(-1).mean().item()]


@pytest.mark.parametrize("outputs", ["stored", "online"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_step_minimises_the_mixed_loss(
    student: Any, teacher: Any, data: Path, tmp_path: Path, outputs: str, temperature: float
) -> None:
    distillation = {"student": 0.3, "temperature": temperature, "outputs": outputs}
    records, found = taught(student, teacher, data, tmp_path / "out", distillation, seed=3)
    entropy, divergence = slow_terms(student, teacher, data, 3, temperature)
    assert records[0]["cross_entropy"] == pytest.approx(entropy, abs=2e-5)
    assert records[0]["kl"] == pytest.approx(divergence, abs=2e-5)
    assert divergence > 0.1
    for record in records:
        mixed = 0.3 * record["cross_entropy"] + 0.7 * temperature**2 * record["kl"]
        assert record["loss"] == pytest.approx(mixed, rel=1e-5)
    assert records[-1]["kl"] < records[0]["kl"]
    assert found.teacher_outputs == outputs
    if outputs == "online":
        assert found.flops == 3 * found.teacher_flops
        assert found.teacher_head_flops is None
    else:
        uses, head = BATCH * STEPS, 2 * teacher.lm_head.weight.numel()
        assert found.teacher_head_flops == uses * LENGTH * head
        passes = found.flops // (3 * uses) - LENGTH * head  # for each sequence, without the head
        assert found.teacher_flops == sequences(data) * passes
    assert (tmp_path / "out" / "teacher").exists() == (outputs == "stored")


def sequences(data: Path) -> int:
    return Sequences(open_prepared(data).tokens("train"), LENGTH, "test").count


@pytest.mark.long
def test_learning_from_a_teacher_alone_comes_near_it(student: Any, teacher: Any, data: Path, tmp_path: Path) -> None:
    more = {"length": "60 steps", "optimizer": {"learning_rate": 0.02}}
    records, _ = taught(student, teacher, data, tmp_path / "out", {"student": 0.0, "outputs": "online"}, **more)
    assert records[-1]["kl"] < 0.6 * records[0]["kl"]
    assert records[-1]["loss"] == pytest.approx(records[-1]["kl"])


@pytest.mark.long
@pytest.mark.parametrize("distillation", [
    {"outputs": "stored"}, {"outputs": "stored", "top_k": 5}, {"outputs": "stored", "hidden_states": {"weight": 2}},
    {"outputs": "online", "top_k": 5, "temperature": 2.0},
], ids=str)  # fmt: skip
def test_neither_micro_batches_nor_fsdp_nor_recomputing_change_the_losses(
    student: Any, teacher: Any, data: Path, tmp_path: Path, distillation: dict[str, Any]
) -> None:
    expected, _ = taught(student, teacher, data, tmp_path / "plain", distillation, micro_batch=BATCH)
    for name, more in {
        "one by one": {"micro_batch": 1},
        "with rows that fill up": {"micro_batch": 4},
        "recomputed": {"activation_checkpointing": True},
        "sharded": {"parallel": "fsdp"},
    }.items():
        found, _ = taught(student, teacher, data, tmp_path / name, distillation, **more)
        for one, other in zip(found, expected, strict=True):
            for key in ("loss", "cross_entropy", "kl"):
                assert one[key] == pytest.approx(other[key], rel=2e-4, abs=1e-5), (name, key)


@pytest.mark.long
def test_stored_and_online_outputs_train_alike(student: Any, teacher: Any, data: Path, tmp_path: Path) -> None:
    for number, (asked, near) in enumerate(
        [({}, 1e-5), ({"top_k": 8}, 1e-3), ({"hidden_states": {"weight": 2}}, 1e-5)]
    ):
        found = {}
        for outputs in ("stored", "online"):
            out = tmp_path / f"{outputs}{number}"
            found[outputs], _ = taught(student, teacher, data, out, asked | {"outputs": outputs})
        for one, other in zip(found["stored"], found["online"], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=near)


@pytest.mark.long
@pytest.mark.parametrize(("asked", "types"), [
    ({"top_k": 8}, {torch.float16, torch.int32}), ({"hidden_states": {"weight": 2}}, {torch.bfloat16}),
])  # fmt: skip
def test_in_bfloat16_sharded_stored_outputs_keep_their_types(
    asked: dict[str, Any],
    types: set[torch.dtype],
    student: Any,
    teacher: Any,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inheritune.distillation import StoredOutputs

    kinds, call = set(), StoredOutputs.__call__

    def note(self: Any, inputs: torch.Tensor, *stored: torch.Tensor, **where: Any) -> Any:
        kinds.update(tensor.dtype for tensor in stored)
        return call(self, inputs, *stored, **where)

    monkeypatch.setattr(StoredOutputs, "__call__", note)
    more = {"parallel": "fsdp", "precision": "bfloat16"}
    records, _ = taught(student, teacher, data, tmp_path / "out", asked | {"outputs": "stored"}, **more)
    assert kinds == types
    expected, _ = taught(student, teacher, data, tmp_path / "single", asked | {"outputs": "online"})
    assert records[0]["kl"] == pytest.approx(expected[0]["kl"], rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize("distillation", [
    {"outputs": "stored", "top_k": 8}, {"outputs": "online", "top_k": 8},
    {"outputs": "stored", "hidden_states": {"weight": 2}},
], ids=str)  # fmt: skip
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    student: Any, teacher: Any, data: Path, tmp_path: Path, distillation: dict[str, Any]
) -> None:
    expected, _ = taught(student, teacher, data, tmp_path / "straight", distillation)
    begun = itertools.count(1)

    def stop(*_: Any) -> None:
        if next(begun) == 4:
            raise ZeroDivisionError

    stopping = register_optimizer_step_pre_hook(stop)
    with pytest.raises(ZeroDivisionError):
        taught(student, teacher, data, tmp_path / "stopped", distillation)
    stopping.remove()
    assert [r["step"] for r in read_metrics(tmp_path / "stopped" / "metrics.jsonl") if "loss" in r][-1] in (2, 3)
    found, _ = taught(student, teacher, data, tmp_path / "stopped", distillation)
    keys = ("step", "loss", "cross_entropy", "kl")
    assert [[r[key] for key in keys] for r in found] == [[r[key] for key in keys] for r in expected]
    assert weights(tmp_path / "stopped" / "model") == weights(tmp_path / "straight" / "model")


def test_without_a_teacher_nothing_is_said_of_one(student: Any, data: Path, tmp_path: Path) -> None:
    _, found = train(student, data, tmp_path / "out", settings=SETTINGS, device="cpu")
    assert not [key for key in found.to_json() if "teacher" in key]
    records = [r for r in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in r]
    assert not any({"kl", "cross_entropy"} & r.keys() for r in records)


def test_a_teacher_without_settings_has_the_papers(student: Any, teacher: Any, data: Path, tmp_path: Path) -> None:
    train(student, data, tmp_path / "out", settings=SETTINGS, teacher=teacher, device="cpu")
    asked = read_json(tmp_path / "out" / "request.json")
    assert asked["train"]["distillation"] == {
        "student": 0.6, "temperature": 1.0, "top_k": None, "outputs": "auto", "hidden_states": None,
    }  # fmt: skip
    with pytest.raises(InputError, match="another training: teacher"):
        train(student, data, tmp_path / "out", settings=SETTINGS, teacher=student, device="cpu")


def test_settings_without_a_teacher_are_refused(student: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^train: train\.distillation: has no teacher; name one, or set it to null$"):
        train(student, data, tmp_path / "out", settings=SETTINGS | {"distillation": {}}, device="cpu")


def test_a_teacher_of_another_vocabulary_is_refused(student: Any, data: Path, text: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    config = type(student.config).from_dict(student.config.to_dict() | {"vocab_size": 512})
    with pytest.raises(
        InputError, match=r"^training: teacher: the logits of LlamaForCausalLM have 512 entries, the mod"
    ):
        train(student, data, tmp_path / "out", settings=SETTINGS, teacher=LlamaForCausalLM(config), device="cpu")
    other = train_tokenizer((file.read_text(encoding="utf-8") for file in sorted(text.iterdir())), 290)
    student.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"^teacher .*other: the data in .* was made with another tokenizer"):
        train(student, data, tmp_path / "out3", settings=SETTINGS, teacher=tmp_path / "other", device="cpu")


def test_from_the_command_line(reference_folder: Path, data: Path, tmp_path: Path) -> None:
    words = ["train", str(reference_folder), str(tmp_path / "out"), "--data", str(data), "--length", "2 steps"]
    words += ["--sequence-length", str(LENGTH), "--batch", "6 sequences", "--device", "cpu", "--quiet"]
    words += ["--distillation.top_k=8", "--distillation.outputs=stored"]
    assert main([*words, "--teacher", str(reference_folder)]) == 0
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert found["teacher_outputs"] == "stored"
    record = read_metrics(tmp_path / "out" / "metrics.jsonl")[1]
    assert abs(record["kl"]) < 1e-3  # it is its own teacher
    assert main([*words, "--dry-run", "--teacher", str(reference_folder)]) == 0


def test_hidden_states_of_a_teacher_as_deep(reference_folder: Path, teacher: Any, data: Path, tmp_path: Path) -> None:
    """Without a word on where its blocks come from, a model's blocks are the teacher's of the same places."""
    student = AutoModelForCausalLM.from_pretrained(reference_folder)
    settings = {"student": 0.5, "hidden_states": {"weight": 2}, "outputs": "stored"}
    records, found = taught(student, student, data, tmp_path / "itself", settings, length="1 steps")
    assert records[0]["hidden_states"] == pytest.approx(0, abs=1e-6)
    assert found.teacher_outputs == "stored"
    (record,), _ = taught(student, teacher, data, tmp_path / "other", settings, length="1 steps")
    assert record["hidden_states"] > 0.1
    mixed = 0.5 * record["cross_entropy"] + 0.5 * record["kl"] + 2 * record["hidden_states"]
    assert record["loss"] == pytest.approx(mixed, rel=1e-5)


def test_hidden_states_of_the_model_that_the_blocks_come_from(
    reference_folder: Path, data: Path, tmp_path: Path
) -> None:
    """Of the first 3 of 4 blocks only the last has a gap behind it; the others begin with the teacher's states."""
    inherit(reference_folder, 3, out=tmp_path / "short")
    values = {}
    for blocks in ("all", "gaps"):
        settings = {"student": 1, "hidden_states": {"weight": 2, "blocks": blocks}}
        (record,), _ = taught(tmp_path / "short", reference_folder, data, tmp_path / blocks, settings, length="1 steps")
        values[blocks] = record["hidden_states"]
    assert values["gaps"] == pytest.approx(3 * values["all"], rel=1e-4)
    assert values["gaps"] > 1e-3
    words = ["train", tmp_path / "short", tmp_path / "out", "--data", data, "--length", "1 steps", "--device", "cpu"]
    words += ["--batch", "4 sequences", "--sequence-length", "16", "--dry-run"]
    words += ["--teacher", reference_folder, "--distillation.hidden_states.weight=3"]
    assert main([str(word) for word in words]) == 0


def test_hidden_states_of_a_deeper_teacher_are_refused(
    reference_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inherit(reference_folder, 2).save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(reference_folder).save_pretrained(tmp_path / "short")
    words = ["train", str(tmp_path / "short"), str(tmp_path / "out"), "--data", str(data), "--length", "1 steps"]
    words += ["--batch", "4 sequences", "--sequence-length", "16", "--device", "cpu"]
    words += ["--teacher", str(reference_folder), "--distillation.hidden_states.weight=3"]
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == 2
        assert (
            "hidden_states: which of the teacher's 4 blocks the model's 2 are is not known" in capsys.readouterr().err
        )


@pytest.mark.long
def test_every_round_learns_from_the_reference(
    reference_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"distillation": {"outputs": "stored", "top_k": 8}}
    rounds = {"by": 1, "until": "max_layers", "max_layers": 2, "start": "trained"}
    _, found = grow(
        reference_folder,
        data,
        tmp_path / "out",
        train=settings,
        inherit={"layers": 1, "choose": "first"},
        rounds=rounds,
        device="cpu",
    )
    assert [r.teacher_outputs for r in found] == ["stored", "stored"]
    assert len({r.teacher_flops for r in found}) == 1
    assert len(list((tmp_path / "out" / "teacher").glob("*/manifest.json"))) == 1
    settings["distillation"] = {"outputs": "online"}
    _, found = grow(
        reference_folder,
        data,
        tmp_path / "two",
        train=settings,
        inherit={"layers": 1, "choose": "first"},
        rounds=rounds,
        device="cpu",
    )
    assert found[1].teacher_flops_before == found[0].teacher_flops


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", ["whole", "chunked"])
def test_forms_and_compiling(
    student: Any, teacher: Any, data: Path, tmp_path: Path, compiled: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inheritune.losses import combining, functional
    from inheritune.training import lacking_compiler, objective

    if compiled and lacking_compiler("cpu") is not None:
        pytest.skip("no compiler here")
    distillation = {"outputs": "online", "top_k": 8}
    expected, _ = taught(student, teacher, data, tmp_path / "plain", distillation)
    if form == "chunked":
        monkeypatch.setattr(functional, "_WHOLE_LOGITS", 0)
        monkeypatch.setattr(combining, "CHUNK", 7 * 300 * 4)
    chunked: list[int] = []

    @torch.compiler.disable
    def spy(*given: Any) -> Any:
        chunked.append(1)
        return combining.in_chunks(*given)

    monkeypatch.setattr(objective, "in_chunks", spy)
    found, _ = taught(student, teacher, data, tmp_path / "other", distillation, compile=compiled)
    assert bool(chunked) == (form == "chunked")
    for one, other in zip(found, expected, strict=True):
        for key in ("loss", "cross_entropy", "kl"):
            assert one[key] == pytest.approx(other[key], rel=2e-4, abs=1e-5)
