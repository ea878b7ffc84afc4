"""A teacher's outputs: stored ones are the online ones; found whatever asks; made once, also when killed."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from conftest import heard
from inheritune import runtime
from inheritune.data import Batches, Packing, Sequences
from inheritune.distillation import DistillationRequest, OnlineOutputs, StoredOutputs, Teacher, storing
from inheritune.errors import InputError, RunError
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Training, check

VOCABULARY, LENGTH = 300, 16
HERE = runtime.Runtime("cpu", 1)
PLAIN = Packing()


def a_teacher(seed: int = 0, **more: Any) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**(sizes | more), initializer_range=0.5, bos_token_id=0, eos_token_id=0)).eval()


def text(sampling: str = "shuffled", tokens: int = 400, packing: Packing = PLAIN) -> Sequences:
    row = np.random.default_rng(1).integers(0, VOCABULARY, tokens).astype(np.uint16)
    return Sequences(row, LENGTH, "test", sampling, packing)


def a_request(
    vocabulary: int = VOCABULARY, packing: Packing = PLAIN, uses: int = 40, **more: Any
) -> DistillationRequest:
    tree = {"length": "5 steps", "batch": "8 sequences", "sequence_length": LENGTH, "precision": "float32"}
    distillation = {"outputs": "stored"} | more.pop("distillation", {})
    settings = check(Training, tree | {"distillation": distillation} | more, "train")
    return DistillationRequest(
        "arm one", settings, text(settings.sampling, packing=packing), uses, vocabulary, needs(settings)
    )


def needs(settings: Training) -> TeacherNeeds:
    return TeacherNeeds.of(build_losses(settings, LossSetup()))


def asked(outputs: Any, numbers: list[int], row: Sequences) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities (B x T, K + 1) and indices for some sequences."""
    examples = row.rows(numbers).examples()
    stored = outputs.stored(np.array(numbers) * LENGTH)
    found = outputs(examples.inputs, *stored, positions=examples.positions, places=examples.places).distribution(
        slice(None)
    )
    return found.log_probabilities.exp(), found.indices


PACKINGS = [Packing(), Packing((), 5, True), Packing((2,), None), Packing((2, 3), 5), Packing((5,), 5, True)]


@pytest.mark.parametrize("distillation", [{}, {"top_k": 6}, {"top_k": VOCABULARY}, {"top_k": 6, "temperature": 2.0}])
@pytest.mark.parametrize("packing", PACKINGS)
def test_stored_outputs_are_the_online_ones(distillation: dict[str, Any], packing: Packing, tmp_path: Path) -> None:
    model, row = a_teacher(), text(packing=packing)
    stored, cost = Teacher(model, tmp_path).outputs(a_request(packing=packing, distillation=distillation), HERE)
    online, other = Teacher(model, tmp_path).outputs(
        a_request(packing=packing, distillation=distillation | {"outputs": "online"}), HERE
    )
    assert isinstance(stored, StoredOutputs)
    assert isinstance(online, OnlineOutputs)
    for numbers in ([0, 1, 2], [row.count - 1, 3], [7]):
        (p, chosen), (q, expected) = asked(stored, numbers, row), asked(online, numbers, row)
        # float16 rounds the top k; hidden states are not rounded, but sums round with the batch's shape
        assert (p - q).abs().max() < (5e-4 if distillation.get("top_k") == 6 else 1e-5)
        torch.testing.assert_close(p.sum(dim=1), torch.ones(len(numbers) * LENGTH))
        if expected is None:
            assert chosen is None
        else:
            assert chosen is not None
            assert torch.equal(chosen.long(), expected)
    blocks, hidden = 2, 16
    has_head = "teacher_head_flops" in cost
    assert has_head == (distillation.get("top_k") != 6)
    if has_head:
        assert cost["teacher_head_flops"] == 40 * LENGTH * 2 * VOCABULARY * hidden
    per_token = cost["teacher_flops"] / (row.count * LENGTH) + (2 * VOCABULARY * hidden if has_head else 0)
    assert other["teacher_flops"] == 40 * LENGTH * per_token
    matrices = blocks * 12 * hidden**2 + VOCABULARY * hidden
    assert 2 * matrices < per_token < 2.2 * (matrices + blocks * LENGTH * hidden)


def test_online_outputs_are_the_models_own_softmax(tmp_path: Path) -> None:
    model, row = a_teacher(), text()
    online, _ = Teacher(model, tmp_path).outputs(
        a_request(distillation={"outputs": "online", "temperature": 3.0}), HERE
    )
    with torch.no_grad():
        logits = model(row.rows([2, 9]).examples().inputs).logits.double().flatten(0, 1)
    powers = (logits / 3.0).exp()
    torch.testing.assert_close(asked(online, [2, 9], row)[0].double(), powers / powers.sum(1, True), rtol=1e-4, atol=0)
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_logits_are_capped(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, max_position_embeddings=32,
    )).eval()  # fmt: skip
    row, found = text(), {}
    for way in ("stored", "online"):
        outputs, _ = Teacher(model, tmp_path).outputs(a_request(distillation={"outputs": way}), HERE)
        found[way] = asked(outputs, [1, 4], row)[0]
    assert (found["stored"] - found["online"]).abs().max() < 5e-4
    with torch.no_grad():
        expected = model(row.rows([1, 4]).examples().inputs).logits.double().softmax(-1).flatten(0, 1)
    torch.testing.assert_close(found["online"].double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("batch", "size", "processes"), [(8, 3, 1), (8, 8, 2), (5, 2, 3)])
def test_a_batch_finds_its_sequences_whatever_its_order_and_split(
    batch: int, size: int, processes: int, tmp_path: Path
) -> None:
    model, row = a_teacher(), text()
    outputs, _ = Teacher(model, tmp_path).outputs(a_request(distillation={"top_k": 4}), HERE)
    online, _ = Teacher(model, tmp_path).outputs(a_request(distillation={"top_k": 4, "outputs": "online"}), HERE)
    for step, seed in ((0, 1), (7, 2)):  # of another epoch
        for rank in range(processes):
            batches = Batches(row, batch, seed, dp_rank=rank, dp_size=processes, stored=outputs.stored)
            for part in batches.micro_batches(step, size):
                assert {len(tensor) for tensor in part.stored} == {len(part.examples)} == {size}
                found = outputs(part.examples.inputs, *part.stored).distribution(slice(None))
                expected = online(part.examples.inputs).distribution(slice(None))
                assert found.indices is not None
                assert expected.indices is not None
                assert torch.equal(found.indices.long(), expected.indices)
                assert (found.log_probabilities.exp() - expected.log_probabilities.exp()).abs().max() < 5e-4


def heeded(hear: Callable[[torch.Tensor], None], loads: list[int] | None = None) -> GPT2LMHeadModel:
    """A teacher that calls `hear` with each batch before it computes, and adds to `loads` when it is copied."""

    class Heeded(GPT2LMHeadModel):
        def __deepcopy__(self, memo: Any) -> GPT2LMHeadModel:
            if loads is not None:
                loads.append(1)
            return heeded(hear, loads)

    def note(_: Any, given: Any, named: dict[str, Any]) -> None:
        inputs_BT = given[0] if given else named["input_ids"]
        if len(inputs_BT) == 8:  # a batch of what is stored
            hear(inputs_BT)

    plain = a_teacher()
    made = Heeded(plain.config).eval()
    made.load_state_dict(plain.state_dict())
    made.transformer.register_forward_pre_hook(note, with_kwargs=True)
    return made


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.bin"))}


def only_store(kept: Path) -> Path:
    (found,) = [place.parent for place in kept.glob("*/manifest.json")]
    return found


def test_a_making_that_was_killed_goes_on_behind_its_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    size = a_request(distillation={"top_k": 4})
    monkeypatch.setattr(storing, "_SHARD", 5 * 16 * (5 * 2 + 4 * 2))  # five sequences
    Teacher(a_teacher(), tmp_path / "whole").outputs(size, HERE)
    expected = shards(only_store(tmp_path / "whole"))
    assert [len(data) for data in expected.values()] == [5 * 16 * 18] * 4 + [4 * 16 * 18]
    computed: list[torch.Tensor] = []

    def until(number: int) -> GPT2LMHeadModel:
        def before(inputs_BT: torch.Tensor) -> None:
            if len(computed) == number:
                raise KeyboardInterrupt
            computed.append(inputs_BT[0])

        return heeded(before)

    for kill in (0, 2, 3):  # before the first shard, before the third, before the fourth
        with pytest.raises(KeyboardInterrupt):
            Teacher(until(kill), tmp_path / "killed").outputs(size, HERE)
        assert not list((tmp_path / "killed").glob("*/manifest.json"))
    half = next((tmp_path / "killed").glob(".*.partial"))
    (half / "outputs-00003.bin").write_bytes(b"half of it")
    caplog.clear()
    Teacher(until(99), tmp_path / "killed").outputs(size, HERE)
    assert torch.equal(torch.stack(computed), text().rows([0, 5, 10, 15, 20]).examples().inputs)  # each once
    assert shards(only_store(tmp_path / "killed")) == expected
    assert "of which 2.59 KB are missing" in caplog.messages[0]
    assert not list((tmp_path / "killed").glob(".*"))


def test_outputs_are_made_once_for_all_that_ask(tmp_path: Path) -> None:
    passes: list[torch.Tensor] = []
    loads: list[int] = []
    shared = Teacher(heeded(passes.append, loads), tmp_path)
    shared.outputs(a_request(), HERE)
    made = len(passes)
    assert made == 3  # 24 sequences, 8 at once
    shared.outputs(a_request(batch="4 sequences"), HERE)
    assert (len(passes), len(loads)) == (made, 1)  # not even the weights are looked at again
    Teacher(heeded(passes.append, loads), tmp_path).outputs(a_request(), HERE)  # another call of the program
    assert (len(passes), len(loads)) == (made, 2)


@pytest.mark.parametrize("change", [
    {"distillation": {"top_k": 3}}, {"distillation": {"top_k": 2, "temperature": 2.0}}, {"sequence_length": 8},
    {"precision": "bfloat16"}, {"packing": Packing((), 5, True)}, {"packing": Packing((5,))}, {"teacher": 1}, {"text": 401},
], ids=lambda change: "-".join(change))  # fmt: skip
def test_whatever_outputs_depend_on_has_outputs_of_its_own(change: dict[str, Any], tmp_path: Path) -> None:
    first = {"top_k": 2} if change.get("distillation", {}).get("top_k") == 2 else {}
    Teacher(a_teacher(), tmp_path).outputs(a_request(distillation=first), HERE)
    before = only_store(tmp_path)
    seed, tokens = change.pop("teacher", 0), change.pop("text", 400)
    wanted = a_request(**change)
    wanted = DistillationRequest(
        "two", wanted.settings, text(tokens=tokens, packing=wanted.sequences.packing), 40, VOCABULARY, wanted.needs
    )
    if "sequence_length" in change:
        row = Sequences(text().tokens, 8, "test")
        wanted = DistillationRequest("two", wanted.settings, row, 40, VOCABULARY, wanted.needs)
    Teacher(a_teacher(seed), tmp_path).outputs(wanted, HERE)
    assert len(list(tmp_path.glob("*/manifest.json"))) == 2
    assert before.exists()


def test_the_size_is_said_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        assert not list(tmp_path.rglob("*.bin"))

    with heard(hear):
        Teacher(a_teacher(), tmp_path).outputs(a_request(distillation={"top_k": 4}), HERE)
    size = sum(len(data) for data in shards(only_store(tmp_path)).values())
    assert size == 24 * 288
    assert said[0].startswith(f"teacher: its outputs take 6.91 KB (24 sequences x 288 bytes) in {only_store(tmp_path)}")


def test_a_disk_without_room_is_told_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 6911})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(
        RunError, match=r"take 6\.91 KB .* and 6\.91 KB are free; make room, lower .*top_k, or set .*online"
    ):
        Teacher(a_teacher(), tmp_path).outputs(a_request(distillation={"top_k": 4}), HERE)
    assert not list(tmp_path.rglob("*.bin"))
    usage.free = 6912
    Teacher(a_teacher(), tmp_path).outputs(a_request(distillation={"top_k": 4}), HERE)
    with pytest.raises(RunError, match=r"; make room, set a small train\.distillation\.top_k, or set .*online"):
        Teacher(a_teacher(), tmp_path / "whole").outputs(a_request(), HERE)


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    Teacher(a_teacher(), tmp_path).outputs(a_request(), HERE)
    place = only_store(tmp_path)
    file = place / "outputs-00000.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        InputError, match=r"outputs-00000\.bin: changed since it was written .*; remove .*computed again"
    ):
        Teacher(a_teacher(), tmp_path).outputs(a_request(), HERE)
    file.write_bytes(whole[:-2])
    with pytest.raises(InputError, match=r"outputs-00000\.bin: has \d+ bytes, the manifest has"):
        Teacher(a_teacher(), tmp_path).outputs(a_request(), HERE)
    (place / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: is damaged; remove"):
        Teacher(a_teacher(), tmp_path).outputs(a_request(), HERE)


@pytest.mark.parametrize(("epochs", "chosen"), [(1, "online"), (4, "stored")])
def test_several_epochs_are_worth_storing(epochs: int, chosen: str, tmp_path: Path) -> None:
    """With the seconds that the teacher takes here."""
    wanted = a_request(uses=24 * epochs, distillation={"outputs": "auto"})
    _, cost = Teacher(a_teacher(n_embd=64, n_layer=6), tmp_path).outputs(wanted, HERE)
    assert cost["teacher_outputs"] == chosen


def test_a_choice_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    auto = {"distillation": {"outputs": "auto"}}
    now = 0.0

    def take_eight_seconds(inputs_BT: torch.Tensor) -> None:  # for eight sequences
        nonlocal now
        now += 8.0

    teacher = heeded(take_eight_seconds)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found, cost = Teacher(teacher, tmp_path, trainings=1).outputs(a_request(uses=24, **auto), HERE)
    assert cost["teacher_outputs"] == "online"
    assert isinstance(found, OnlineOutputs)
    assert caplog.messages[0].startswith("arm one: teacher online 24 sequences x 1 s = 24 s; stored 24 x 1 s, and")
    Teacher(a_teacher(), tmp_path).outputs(a_request(), HERE)  # others may store them
    found, cost = Teacher(teacher, tmp_path, trainings=9).outputs(a_request(uses=24, **auto), HERE)
    assert cost["teacher_outputs"] == "online"
    found, cost = Teacher(teacher, tmp_path / "b", trainings=2).outputs(a_request(uses=24, **auto), HERE)
    assert cost["teacher_outputs"] == "stored"
    assert isinstance(found, StoredOutputs)
    assert cost["teacher_seconds"] >= 0
    decided = json.loads(next((tmp_path / "b").glob("*-choice.json")).read_text())
    assert decided["outputs"] == "stored"


def test_how_long_a_sequence_takes_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    Teacher(a_teacher(), tmp_path).outputs(a_request(distillation={"outputs": "auto"}), HERE)
    both = caplog.messages[0].split(" sequences x (")[1].split(" s)")[0].split(" + ")
    assert len(both) == 2
    assert all(1e-7 < float(seconds) < 1 for seconds in both)


def test_windows_that_begin_anywhere_are_taught_online(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    wanted = a_request(sampling="with replacement", distillation={"outputs": "auto"})
    outputs, _ = Teacher(a_teacher(), tmp_path).outputs(wanted, HERE)
    assert isinstance(outputs, OnlineOutputs)
    assert caplog.messages == [
        "arm one: teacher online, as with train.sampling: with replacement sequences begin anywhere"
    ]
    with pytest.raises(
        InputError, match=r"stored outputs belong to fixed sequences.*; give online, or sampling: shuffled"
    ):
        a_request(sampling="with replacement")


def test_in_bfloat16_positions_keep_their_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=32,
    )).eval()  # fmt: skip
    frequencies, row, found = model.model.rotary_emb.inv_freq.clone(), text(), {}
    assert not torch.equal(frequencies.bfloat16().float(), frequencies)  # or nothing is tested
    for precision in ("float32", "bfloat16"):
        wanted = a_request(precision=precision, distillation={"outputs": "online"})
        outputs, _ = Teacher(model, tmp_path).outputs(wanted, HERE)
        assert isinstance(outputs, OnlineOutputs)
        assert outputs._model.lm_head.weight.dtype == getattr(torch, precision)
        assert torch.equal(outputs._model.model.rotary_emb.inv_freq, frequencies)
        found[precision] = asked(outputs, [3], row)[0]
    assert 0 < (found["float32"] - found["bfloat16"]).abs().max() < 1e-3


def test_a_teacher_stays_as_it_was_given(tmp_path: Path) -> None:
    model = a_teacher().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Teacher(model, tmp_path).outputs(a_request(precision="bfloat16"), HERE)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("outputs", ["stored", "online"])
def test_another_vocabulary_is_an_error_that_names_the_arm(outputs: str, tmp_path: Path) -> None:
    expected = (
        r"^arm one: teacher: the logits of GPT2LMHeadModel have 300 entries, the model's 299;"
        r" give a teacher with the model's own vocabulary$"
    )
    with pytest.raises(InputError, match=expected):
        Teacher(a_teacher(), tmp_path).outputs(a_request(299, distillation={"outputs": outputs}), HERE)
    assert list(tmp_path.iterdir()) == []


def test_more_entries_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^arm one: train\.distillation\.top_k: 301, the teacher's vocabulary has 300"
    ):
        Teacher(a_teacher(), tmp_path).outputs(a_request(distillation={"top_k": 301}), HERE)


def test_a_teacher_that_cannot_do_what_is_asked_for(tmp_path: Path) -> None:
    short = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8,
    ))  # fmt: skip
    with pytest.raises(InputError, match=r"^arm one: .*teacher LlamaForCausalLM: the model has 8 positions"):
        Teacher(short, tmp_path).outputs(a_request(), HERE)
    from transformers import MambaConfig, MambaForCausalLM

    shared = Teacher(
        MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)),
        tmp_path,
    )
    shared.outputs(a_request(distillation={"outputs": "online"}), HERE)
    with pytest.raises(
        InputError, match=r"^arm one: .*teacher MambaForCausalLM: .*does not keep the documents of a sequence apart"
    ):
        shared.outputs(a_request(packing=Packing((), 0, True), attention="document"), HERE)
