"""Memory, time, price and what fits, by hand and against the engine itself."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from inheritune.arch import block_matrices, silence_libraries
from inheritune.errors import InputError
from inheritune.optimizers import read_optimizer
from inheritune.optimizers.stepping import allocate_state, state_tensors
from inheritune.planner import (
    Conditions,
    MemoryConfig,
    ModelProfile,
    Planned,
    Taught,
    choose_devices,
    known_devices,
    largest_micro_batch,
    measured_device,
    memory_of,
    plan,
    state_bytes,
)
from inheritune.planner.devices import USABLE
from inheritune.planner.planning import Bounds
from inheritune.recipe import Evaluate, Training

silence_libraries()
TINY = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4, vocab_size=512,
    max_position_embeddings=128, tie_word_embeddings=False,
)  # fmt: skip
PROFILE = ModelProfile(TINY)
TRAINING = Training.model_validate({"length": "10 steps", "batch": "8 sequences", "sequence_length": 32})


def planned(depth: int = 3, steps: int | None = 10, **changes: Any) -> Planned:
    config = LlamaConfig(**{**TINY.to_dict(), "num_hidden_layers": depth})
    training = TRAINING.model_copy(update=changes)
    return Planned(f"round {depth}", PROFILE, tuple(range(depth)), config, training, steps, 1.0)


CONDITIONS = Conditions(Evaluate(), 100_000, 4096)


@pytest.mark.parametrize("fields", [{}, {"name": "muon"}], ids=["adamw", "muon"])
def test_states_are_those_that_the_optimizer_allocates(fields: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_config(TINY)
    settings = read_optimizer(fields)
    optimizers = settings.build(model, block_matrices(model))
    allocate_state(model, optimizers)
    found = sum(t.nbytes for name, t in state_tensors(model, optimizers).items() if not name.endswith("/step"))
    assert state_bytes(PROFILE.parts(), settings) == found


def test_eight_bit_states_by_hand() -> None:
    parts = PROFILE.parts()
    small = sum(part.size for part in parts if part.size < 4096)
    large = sum(part.size for part in parts) - small
    assert state_bytes(parts, read_optimizer({"states": "8bit"})) == 8 * small + 2 * large * (1 + 4 / 256)


def test_memory_of_one_device_and_of_several() -> None:
    setup = MemoryConfig("bfloat16", 4, 32, read_optimizer({}), False)
    alone, shared = (memory_of(PROFILE, [0, 1, 2], replace(setup, devices=n)) for n in (1, 4))
    count = sum(part.size for part in PROFILE.parts([0, 1, 2]))
    assert (alone.weights, alone.gradients, alone.states) == (4 * count, 4 * count, 8 * count)
    assert (shared.weights, shared.gradients, shared.states) == (count, count, 2 * count)
    outside = 2 * 512 * 64 + 64
    block = 4 * 64**2 + 3 * 64 * 128 + 2 * 64
    assert shared.working >= 2 * (outside + 2 * block) + 6 * outside
    assert alone.total == pytest.approx(sum(vars(alone).values()))
    checkpointed = memory_of(PROFILE, [0, 1, 2], replace(setup, activation_checkpointing=True))
    assert checkpointed.activations < alone.activations
    deeper = memory_of(PROFILE, [0, 1, 2, 3], replace(setup, activation_checkpointing=True))
    assert deeper.activations - checkpointed.activations == 4 * 32 * 64 * 4  # one block's output more, in float32


def test_activations_grow_with_the_micro_batch_and_casts_do_not() -> None:
    setup = MemoryConfig("bfloat16", 1, 32, read_optimizer({}), False)
    found = [memory_of(PROFILE, [0, 1, 2], replace(setup, micro_batch=size)) for size in (1, 2, 4)]
    steps = [b.activations - a.activations for a, b in pairwise(found)]
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.01)
    assert memory_of(PROFILE, [0], replace(setup, precision="float32")).working < found[0].working


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    setup = MemoryConfig("float32", 1, 32, read_optimizer({}), False)
    room = memory_of(PROFILE, [0, 1], replace(setup, micro_batch=5)).total
    size = largest_micro_batch(PROFILE, [0, 1], setup, 64, room)
    assert size == 4
    assert memory_of(PROFILE, [0, 1], replace(setup, micro_batch=8)).total > room
    assert largest_micro_batch(PROFILE, [0, 1], setup, 2, room) == 2
    assert largest_micro_batch(PROFILE, [0, 1], setup, 64, 1e3) == 0


def test_hours_and_price_by_hand() -> None:
    (device,) = choose_devices(["a100"], {"A100": 2.0})
    found = plan([planned()], replace(CONDITIONS, devices=2), [device])
    (training,), (row,) = found["trainings"], found["devices"]
    judged = 2 * 32 * 32 + 4096  # before the first step and behind the last, then all validation text
    assert training["evaluation_tokens"] == judged
    work = (10 * 8 * 32 + judged / 3) * training["flops_per_token"]
    low, high = device.utilisation
    assert row["hours"]["least"] == pytest.approx([work / (2 * 312e12 * share) / 3600 for share in (high, low)])
    assert row["price"]["least"] == pytest.approx([2 * 2.0 * hours for hours in row["hours"]["least"]])
    assert (row["parallel"], row["fits"]) == ("ddp", True)
    json.dumps(found)  # all of it is plain data


def test_a_teacher_costs_its_forward_pass_by_hand() -> None:
    """2 FLOPs for each matrix entry, and 4 for each block, position and channel of attention: a third of a training."""
    matrices = sum(part.size for part in PROFILE.parts() if not part.is_embedding)
    forward = 2 * matrices + 4 * 6 * 64 * 32
    (found,) = plan([replace(planned(), teacher=Taught("t", PROFILE))], CONDITIONS, choose_devices(["L4"]))["trainings"]
    expected = {"name": "t", "outputs": "online", "flops": pytest.approx(10 * 8 * 32 * forward), "head_flops": 0}
    assert found["teacher"] == expected


def test_a_head_computes_distributions_again_at_each_use() -> None:
    """The passes of 96 stored tokens are without it; it alone is in memory, and each training has its own uses."""
    matrices = sum(part.size for part in PROFILE.parts() if not part.is_embedding)
    assert PROFILE.head is not None
    head = PROFILE.head.weight.numel()
    forward = 2 * matrices + 4 * 6 * 64 * 32
    stored = Taught("t", PROFILE, 96, head_runs="at each use")
    found = plan([replace(planned(), teacher=stored)] * 2, CONDITIONS, choose_devices(["L4"]))
    passes, uses = 96 * (forward - 2 * head), 10 * 8 * 32 * 2 * head
    for one in found["trainings"]:
        expected = {"name": "t", "outputs": "stored", "flops": pytest.approx(passes), "head_flops": uses}
        assert one["teacher"] == expected
    assert found["flops"]["most"]["teachers"] == pytest.approx(passes + 2 * uses)
    row = next(row for row in found["memory"] if row["precision"] == "bfloat16" and row["devices"] == 1)
    assert row["teacher"] == 2 * head
    states = Taught("t", PROFILE, 96, head_runs="never", blocks=(1,))
    found = plan([replace(planned(), teacher=states)], CONDITIONS, choose_devices(["L4"]))
    assert found["trainings"][0]["teacher"]["flops"] == pytest.approx(passes)
    assert found["trainings"][0]["teacher"]["head_flops"] == found["memory"][0]["teacher"] == 0


@pytest.mark.parametrize(("blocks", "learnt"), [("all", 3), ("gaps", 2)])
def test_learnt_hidden_states_take_memory(blocks: str, learnt: int) -> None:
    """Those of 2 bytes of a teacher in bfloat16, and the float32 that the loss keeps; of 2 x 32 tokens."""
    found = []
    for hidden_states in (None, {"weight": 1, "blocks": blocks}):
        training = Training.model_validate({
            "length": "10 steps", "batch": "8 sequences", "sequence_length": 32, "micro_batch": 2,
            "distillation": {"hidden_states": hidden_states},
        })  # fmt: skip
        one = replace(planned(), kept=(0, 1, 3), training=training, teacher=Taught("t", PROFILE))
        rows = plan([one], CONDITIONS, choose_devices(["L4"]))["memory"]
        found.append(next(row for row in rows if row["precision"] == "bfloat16" and row["devices"] == 1))
    assert found[1]["teacher"] - found[0]["teacher"] == 2 * 32 * learnt * 64 * (2 + 4)
    assert found[1]["activations"] == found[0]["activations"]


def test_recomputed_activations_take_time() -> None:
    devices = choose_devices(["A100"])
    plain, again = (plan([planned(activation_checkpointing=flag)], CONDITIONS, devices) for flag in (False, True))
    ratio = again["devices"][0]["hours"]["least"][0] / plain["devices"][0]["hours"]["least"][0]
    assert 1.1 < ratio < 4 / 3
    assert again["trainings"][0]["flops"] == plain["trainings"][0]["flops"]


def test_least_and_most() -> None:
    later = replace(planned(5), counts=("most",))
    found = plan([planned(), later], CONDITIONS, choose_devices(["L4"]))
    (row,) = found["devices"]
    alone = plan([planned()], CONDITIONS, choose_devices(["L4"]))["devices"][0]
    assert row["hours"]["least"] == alone["hours"]["least"]
    assert row["hours"]["most"][0] > 2 * row["hours"]["least"][0]
    assert (
        found["disk"]["most"]["models"]
        == found["trainings"][0]["disk"]["model"] + found["trainings"][1]["disk"]["model"]
    )
    assert found["memory_of"] == "round 5"


def test_disk_by_hand() -> None:
    found = plan([planned()], CONDITIONS, choose_devices(["L4"]))
    count = found["trainings"][0]["parameters"]["total"]
    disk = found["disk"]
    assert disk["data"] == 2 * (100_000 + 4096)
    assert disk["least"]["models"] == 4 * count
    assert disk["least"]["checkpoints"] == 2 * 12 * count + 4 * count  # two that are kept, and the best weights
    assert disk["least"]["being_written"] == 12 * count


def test_what_fits_does_and_one_block_more_does_not() -> None:
    own = planned()
    candidates = [planned(depth) for depth in range(1, 7)]
    setup = MemoryConfig("bfloat16", 1, 32, read_optimizer({}), False)
    memory = memory_of(PROFILE, range(4), setup).total
    bounds = Bounds(memory / USABLE, 1e-6, own, candidates)
    found = plan([own], CONDITIONS, choose_devices(["L4"]), bounds)["fit"]
    assert found["most_blocks"]["as the recipe says"] == 4
    assert [row["blocks"] for row in found["rows"]][:4] == [1, 2, 3, 4]
    row = next(row for row in found["rows"] if row["blocks"] == 4)
    assert (row["settings"], row["micro_batch"]) == ("as the recipe says", 1)
    tokens = row["tokens"]["L4"]
    assert tokens[0] % TRAINING.batch_tokens == 0
    # in the time at the fastest rate no more than the rate allows
    assert tokens[1] <= 3600 * 1e-6 * 0.55 * 121e12 / row["flops_per_token"]
    assert tokens[1] > 0.3 * 3600 * 1e-6 * 0.55 * 121e12 / row["flops_per_token"]


def test_ways_to_save_memory_reach_as_deep_as_their_settings_fit() -> None:
    """Each way alone and with activation checkpointing, by the memory of the settings that its name gives."""
    candidates, own = [planned(depth) for depth in range(1, 7)], planned(precision="float32")
    memory = memory_of(PROFILE, range(2), MemoryConfig("float32", 1, 32, read_optimizer({}), False)).total
    found = plan([own], CONDITIONS, choose_devices(["L4"]), Bounds(memory / USABLE, None, own, candidates))["fit"]
    fields = {"": {}, "optimizer.states=8bit": {"states": "8bit"}, "optimizer.offload=true": {"offload": True}}
    expected = {}
    for override, changes in fields.items():
        for checkpointed in (False, True):
            names = (["activation_checkpointing"] if checkpointed else []) + ([override] if override else [])
            setup = MemoryConfig("float32", 1, 32, read_optimizer(changes), checkpointed)
            fitting = [depth for depth in range(1, 7) if memory_of(PROFILE, range(depth), setup).total <= memory]
            expected[", ".join(names) or "as the recipe says"] = max(fitting)
    assert found["most_blocks"] == expected
    assert len(set(expected.values())) > 2
    taken = replace(own, training=own.training.model_copy(update={"optimizer": read_optimizer({"offload": True})}))
    found = plan([taken], CONDITIONS, choose_devices(["L4"]), Bounds(memory / USABLE, None, taken, candidates))["fit"]
    assert list(found["most_blocks"]) == ["as the recipe says", "activation_checkpointing"]


def test_every_device_has_its_own_share_of_the_peak() -> None:
    rows = {row["name"]: row for row in plan([planned()], CONDITIONS, known_devices())["devices"]}
    assert rows["A100"]["utilisation"] == [0.45, 0.65]
    assert rows["H100"]["utilisation"] == rows["H200"]["utilisation"] == [0.35, 0.45]
    for row in rows.values():
        assert row["flops_per_second"] == pytest.approx([row["peak_flops_per_second"] * u for u in row["utilisation"]])


def test_warnings() -> None:
    unknown = replace(CONDITIONS, train_tokens=None)
    devices = choose_devices(["L4"])
    said = plan([planned(steps=None)], unknown, devices)["warnings"]
    assert any("not known without reading it" in sentence for sentence in said)
    assert plan([planned(steps=None)], unknown, devices)["trainings"][0]["tokens"] == 10**9 // 256 * 256
    many = replace(planned(), epochs=9.0)
    assert any("9 times" in sentence for sentence in plan([many], CONDITIONS, devices)["warnings"])
    float8 = plan([planned(precision="float8")], CONDITIONS, choose_devices(["A100"]))["warnings"]
    assert any("A100 cannot multiply it" in sentence for sentence in float8)
    small = [replace(devices[0], memory=1e6)]
    assert any("does not fit" in sentence for sentence in plan([planned()], CONDITIONS, small)["warnings"])
    bounds = Bounds(None, 1e-9, planned(), [])
    assert plan([planned()], CONDITIONS, devices)["warnings"] == []
    with pytest.raises(ValueError, match="empty"):
        plan([], CONDITIONS, devices, bounds)


OPENLLAMA = ModelProfile(
    LlamaConfig(
        hidden_size=3200, intermediate_size=8640, num_hidden_layers=26, num_attention_heads=32, vocab_size=32000
    )
)  # fmt: skip


def of_openllama(depth: int) -> Planned:
    """The first blocks of OpenLLaMA-3B, trained as recipes/openllama-1.5b.yaml says."""
    settings = {"length": "8 epochs", "batch": "64 sequences", "sequence_length": 2048, "precision": "bfloat16"}
    config = LlamaConfig(**{**OPENLLAMA.config.to_dict(), "num_hidden_layers": depth})
    return Planned(f"{depth}", OPENLLAMA, tuple(range(depth)), config, Training.model_validate(settings), 61035, 8.0)


@pytest.mark.long
def test_what_the_documentation_says_of_a_card_of_24_gb() -> None:
    """The two tables of docs/training.md."""
    own, candidates = of_openllama(13), [of_openllama(depth) for depth in range(1, 18)]
    conditions = Conditions(Evaluate(), 10**9, 4 * 10**6)
    found = plan([own], conditions, choose_devices(["L4"]), Bounds(24e9, None, own, candidates))["fit"]
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    names = (
        "as the recipe says", "activation checkpointing", "8-bit states", "both", "offloaded states",
        "offloaded states, activation checkpointing",
    )  # fmt: skip
    for name, most in zip(names, found["most_blocks"].values(), strict=True):
        assert f"| {name} | {most} |" in text
    for states, fields in ("AdamW", {}), ("states: 8bit", {"states": "8bit"}), ("offload: true", {"offload": True}):
        for checkpointed in (False, True):
            setup = MemoryConfig("bfloat16", 1, 2048, read_optimizer(fields), checkpointed)
            memory = memory_of(OPENLLAMA, range(13), setup)
            parts = [memory.weights, memory.gradients, memory.states, memory.activations, memory.logits, memory.working]
            row = [states, "yes" if checkpointed else "no", *(f"{part / 1e9:.1f}" for part in (*parts, memory.total))]
            left = USABLE * 24e9 - memory.total
            assert " | ".join(["", *row, f"{left / 1e9:.1f} left |" if left > 0 else "does not fit |"]).strip() in text


def test_the_published_hours_are_below_the_cards_limit() -> None:
    """PAPER: 1.1e19 FLOPs, 260 TFLOP/s for 12 hours, a peak of 155."""
    one = of_openllama(13)
    found = plan([one], Conditions(Evaluate(), 10**9, 4 * 10**6), choose_devices(["A6000"]))
    work = 1e9 * found["trainings"][0]["flops_per_token"]
    assert (f"{work:.2e}", round(work / 12 / 3600 / 1e12)) == ("1.13e+19", 262)
    assert found["trainings"][0]["tokens"] / 1e9 == pytest.approx(8, rel=0.001)
    assert found["devices"][0]["hours_at_peak"]["least"] == pytest.approx(8 * 1.13e19 / 155e12 / 3600, rel=0.01)
    assert found["trainings"][0]["parameters"]["total"] == 1_815_638_400


@pytest.mark.parametrize(("name", "known"), [("rtx4090", "RTX 4090"), ("NVIDIA H100", "H100"), ("cpu", "CPU")])
def test_names_of_devices(name: str, known: str) -> None:
    assert [device.name for device in choose_devices([name])] == [known]


def test_an_unknown_device() -> None:
    with pytest.raises(InputError, match=r"no 'H10' in the table; did you mean H100\? known are A6000, A100") as error:
        choose_devices(["H10"])
    assert len(error.value.problems) == 1
    with pytest.raises(InputError, match="no 'B300'"):
        choose_devices([], {"B300": 1.0})
    assert len(known_devices()) == 7


def test_a_measured_rate(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    figures = {
        "step": {"flops_per_second": 5e13}, "hardware": {"name": "NVIDIA RTX A6000", "device": "cuda"},
        "flops_per_token": 1e9, "shape": "standard", "precision": "bfloat16", "memory": {"peak_bytes": 1},
    }  # fmt: skip
    file.write_text(json.dumps(figures))
    device, said = measured_device(file)
    assert (device.name, device.memory, said["shape"]) == ("A6000, measured", 50e9, "standard")
    assert device.rates("bfloat16") == (5e13, 5e13)
    row = plan([planned()], CONDITIONS, [device])["devices"][0]
    assert row["hours"]["least"][0] == row["hours"]["least"][1]
    for bad in ("", "{}", "[1]", json.dumps(figures | {"step": {"flops_per_second": -1}})):
        file.write_text(bad)
        with pytest.raises(InputError, match="bench"):
            measured_device(file)
    with pytest.raises(InputError, match="cannot be read"):
        measured_device(tmp_path / "none.json")
