"""Stored tensors: whatever their names and their files, the target is the same; damage is named and nothing is left."""

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import MergeModulelist

from conftest import stored_tensors
from inheritune.arch import StoredWeights
from inheritune.cli import main
from inheritune.inheritance import derive, inherit, inherit_settings, write
from inheritune.inheritance.derivation import open_source
from inheritune.recipe import FIRST_HALF, Reference

_PLAIN = {
    "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DEEPSEEK = {
    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
_GPT2 = {"vocab_size": 67, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": _PLAIN,
    "llama, tied": _PLAIN | {"tie_word_embeddings": True},
    "llama, inv_freq": _PLAIN,
    "gpt2": _GPT2,
    "gpt2, bare": _GPT2,
    "bloom, bare": {"vocab_size": 67, "hidden_size": 32, "n_layer": 4, "n_head": 4},
    "mixtral": _PLAIN | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _PLAIN | _EXPERTS | {"head_dim": 8, "num_experts": 4, "mlp_only_layers": [0]},
    "deepseek_v3": _PLAIN | _EXPERTS | _DEEPSEEK,
}


def _bare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As GPT-2 was published: without `transformer.`, and with the causal masks."""
    found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return found | {f"h.{block}.attn.bias": torch.ones(1, 1, 64, 64).tril() for block in range(4)}


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def _inv_freq(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As LLaMA's early checkpoints: the rotary frequencies stored in every block."""
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return tensors | {name.format(block): torch.ones(4) for block in range(4)}


AS_PUBLISHED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "gpt2, bare": _bare,
    "bloom, bare": _without_prefix,
    "llama, inv_freq": _inv_freq,
}
EXTRA = re.compile(r"h\.\d+\.attn\.bias$|inv_freq$")  # what modules no longer have; the target may leave it out


def save(kind: str, folder: Path, shards: str = "1GB", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A checkpoint as its family publishes it, and the model of it."""
    name = kind.split(",")[0]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**FIELDS[kind]), dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shards)
    if kind in AS_PUBLISHED:
        save_file(AS_PUBLISHED[kind](stored_tensors(folder)), folder / "model.safetensors", {"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def sliced(tensors: dict[str, torch.Tensor], kept: list[int]) -> dict[str, torch.Tensor]:
    """The target's file by hand: the kept blocks' tensors under their new numbers, and all that is in no block."""
    found = {}
    for name, tensor in tensors.items():
        match = re.search(r"(?:^|\.)(?:layers|h)\.(\d+)\.", name)
        if match is None:
            found[name] = tensor
        for place, block in enumerate(kept):
            if match is not None and int(match[1]) == block:
                found[f"{name[: match.start(1)]}{place}{name[match.end(1) :]}"] = tensor
    return found


FIRST, ENDS, STACKED = [0, 1], [0, 3], [0, 1, 0, 1]
# DeepSeek's config can have dense blocks at the start alone, so that one stacked on others is refused
SELECTIONS = [
    (kind, kept) for kind in FIELDS for kept in (FIRST, ENDS, STACKED) if kept != STACKED or kind != "deepseek_v3"
]


@pytest.mark.parametrize(("kind", "kept"), SELECTIONS)
def test_from_files_as_from_memory_and_as_sliced_by_hand(kind: str, kept: list[int], tmp_path: Path) -> None:
    model = save(kind, tmp_path / "reference")
    spec = inherit_settings(4, choose="stacked") if kept == STACKED else inherit_settings(kept)
    reference = Reference(path=str(tmp_path / "reference"))
    here, _ = derive(model, spec)
    there, _ = derive(reference, spec)
    write(reference, spec, tmp_path / "target")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    for other in (there, loaded):
        assert here.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in here.state_dict().items())
    found = {name: tensor for name, tensor in stored_tensors(tmp_path / "target").items() if not EXTRA.search(name)}
    meant = sliced({n: t for n, t in stored_tensors(tmp_path / "reference").items() if not EXTRA.search(n)}, kept)
    assert found.keys() == meant.keys()
    assert all(torch.equal(tensor, meant[name]) for name, tensor in found.items())


Damage = Callable[[Path], tuple[str, ...]]


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any], file: str = "model.safetensors") -> None:
    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file, {"format": "pt"})


def set_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


UP = "model.layers.2.mlp.up_proj.weight"


def missing_tensor(folder: Path) -> tuple[str, ...]:
    change(folder, lambda tensors: tensors.pop(UP))
    return (UP, "missing")


def missing_in_a_block_that_is_dropped(folder: Path) -> tuple[str, ...]:
    name = "model.layers.3.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors.pop(name))
    return (name, "missing")


def other_shape(folder: Path) -> tuple[str, ...]:
    change(folder, lambda tensors: tensors.update({UP: torch.zeros(48, 31)}))
    return (UP, "(48, 31)", "(48, 32)")


def integers(folder: Path) -> tuple[str, ...]:
    change(folder, lambda tensors: tensors.update({UP: torch.zeros(48, 32, dtype=torch.int32)}))
    return (UP, "I32")


def integers_in_every_block(folder: Path) -> tuple[str, ...]:
    names = [UP.replace("2", str(block)) for block in range(4)]
    change(folder, lambda tensors: tensors.update({name: torch.zeros(48, 32, dtype=torch.int8) for name in names}))
    return ("mlp.up_proj.weight", "I8")


def another_half(folder: Path) -> tuple[str, ...]:
    change(folder, lambda tensors: tensors.update({UP: tensors[UP].half()}))
    return (UP, "F16", "F32")


def half_of_each(folder: Path) -> tuple[str, ...]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(torch.float16 if name == "lm_head.weight" else torch.bfloat16)

    change(folder, edit)
    return ("lm_head.weight", "F16", "BF16")


def too_many_blocks(folder: Path) -> tuple[str, ...]:
    set_config(folder, num_hidden_layers=3)
    return ("model.layers.3.", "3 blocks")


def too_few_blocks(folder: Path) -> tuple[str, ...]:
    set_config(folder, num_hidden_layers=5)
    return ("model.layers.4.", "missing")


def shifted_number(folder: Path) -> tuple[str, ...]:
    change(folder, lambda tensors: tensors.update({UP.replace("2", "7"): tensors.pop(UP)}))
    return ("layers.7.mlp.up_proj.weight",)


def other_width(folder: Path) -> tuple[str, ...]:
    set_config(folder, hidden_size=40, head_dim=10)
    return ("mismatched", "the config says")


def tied_config(folder: Path) -> tuple[str, ...]:
    set_config(folder, tie_word_embeddings=True)
    return ("lm_head.weight", "tie_word_embeddings")


def cut_short(folder: Path) -> tuple[str, ...]:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return ("model.safetensors", "cut short")


def expert_missing(folder: Path) -> tuple[str, ...]:
    name = "model.layers.2.block_sparse_moe.experts.1.w1.weight"
    change(folder, lambda tensors: tensors.pop(name))
    return ("model.layers.2.", "experts")


def expert_of_another_shape(folder: Path) -> tuple[str, ...]:
    name = "model.layers.2.block_sparse_moe.experts.1.w1.weight"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(48, 31)}))
    return ("model.layers.2.", "experts")


def lost_shard(folder: Path) -> tuple[str, ...]:
    file = sorted(folder.glob("*.safetensors"))[2]
    file.unlink()
    return (file.name, "missing")


def cut_shard(folder: Path) -> tuple[str, ...]:
    file = sorted(folder.glob("*.safetensors"))[2]
    file.write_bytes(file.read_bytes()[:-8])
    return (file.name, "cut short")


def index_of_another(folder: Path) -> tuple[str, ...]:
    """The index says that a tensor is in a file that does not hold it."""
    index = folder / "model.safetensors.index.json"
    tree = json.loads(index.read_text(encoding="utf-8"))
    last = sorted(set(tree["weight_map"].values()))[-1]
    tree["weight_map"]["model.embed_tokens.weight"] = last
    index.write_text(json.dumps(tree), encoding="utf-8")
    return ("model.embed_tokens.weight", last, "index")


def shard_of_another_precision(folder: Path) -> tuple[str, ...]:
    file = sorted(folder.glob("*.safetensors"))[2]

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].half()

    change(folder, edit, file.name)
    return (file.name, "F16")


DAMAGES: dict[str, tuple[Damage, ...]] = {
    "llama": (
        missing_tensor, missing_in_a_block_that_is_dropped, other_shape, integers, integers_in_every_block, another_half,
        half_of_each, too_many_blocks, too_few_blocks, shifted_number, other_width, tied_config, cut_short,
    ),
    "mixtral": (expert_missing, expert_of_another_shape),
    "sharded": (lost_shard, cut_shard, index_of_another, shard_of_another_precision),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints to copy and damage, by kind."""
    place = tmp_path_factory.mktemp("sound")
    save("llama", place / "llama")
    save("mixtral", place / "mixtral")
    save("llama", place / "sharded", "20KB")
    return place


@pytest.mark.parametrize(("kind", "damage"), [(kind, damage) for kind in DAMAGES for damage in DAMAGES[kind]])
def test_damage_is_named_and_nothing_is_left(
    kind: str, damage: Damage, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(sound / kind, tmp_path / "reference"))
    words = damage(folder)
    status = main(["inherit", str(folder), str(tmp_path / "out"), "--layers", "3"])
    said = capsys.readouterr().err
    assert status == 2, said
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said
    assert [file.name for file in tmp_path.iterdir()] == ["reference"]


def test_the_sound_checkpoints_are_taken(sound: Path, tmp_path: Path) -> None:
    """Guards the cases above: it is the damage that is refused."""
    for kind in DAMAGES:
        inherit(sound / kind, 3, out=tmp_path / kind)


@pytest.mark.parametrize("kind", ["llama", "llama, tied", "gpt2, bare", "bloom, bare", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("submodules", ["all", ["attention"]])
def test_half_width_from_files_as_from_memory(kind: str, submodules: Any, tmp_path: Path) -> None:
    model = save(kind, tmp_path / "reference")
    spec = inherit_settings([0, 2], submodules=submodules, **FIRST_HALF)
    here, _ = derive(model, spec)
    there, _ = derive(Reference(path=str(tmp_path / "reference")), spec)
    assert here.state_dict().keys() == there.state_dict().keys()
    assert all(torch.equal(tensor, there.state_dict()[name]) for name, tensor in here.state_dict().items())


@pytest.fixture
def another_form() -> Iterator[None]:
    """Transformers stacks experts by an operation of another name."""
    name, MergeModulelist.__name__ = MergeModulelist.__name__, "Another"
    yield
    MergeModulelist.__name__ = name


@pytest.mark.usefixtures("another_form")
def test_half_width_of_experts_in_a_form_whose_parts_are_not_known(tmp_path: Path) -> None:
    """Then the model is loaded whole, and the target is the same."""
    model = save("mixtral", tmp_path / "reference")
    spec = inherit_settings([0, 2], **FIRST_HALF)
    source = open_source(Reference(path=str(tmp_path / "reference")), spec)
    assert source.placement is None
    assert source.model is not None
    here, there = derive(model, spec)[0].state_dict(), source.build(seed=1).state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())


@pytest.mark.parametrize("kind", ["llama, tied", "mixtral", "gpt2"])
def test_of_half_the_width_no_more_is_read_than_the_target_has(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(kind, tmp_path / "reference")
    real, read = os.preadv, list[int]()

    def counted(*given: Any) -> int:
        read.append(real(*given))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    source = open_source(Reference(path=str(tmp_path / "reference")), inherit_settings([0, 2], **FIRST_HALF))
    assert not read
    target = source.build(seed=1)
    in_parts = sum(tensor.numel() for name, tensor in target.named_parameters() if tensor.ndim > 1 or "ln_" not in name)
    assert 0 < sum(read) <= 4 * sum(tensor.numel() for tensor in target.parameters())
    assert sum(read) >= 4 * in_parts * 0.9


_RANGES = st.lists(st.integers(1, 5), min_size=2, max_size=6) | st.lists(st.integers(1, 2), min_size=36, max_size=40)


@settings(deadline=None)
@given(data=st.data(), dimensions=st.integers(1, 3))
def test_parts_of_a_stored_tensor(
    data: st.DataObject, dimensions: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever ranges are asked for, what is read is what indexing gives."""
    ranges, shape = [], []
    for _ in range(dimensions):
        steps = data.draw(_RANGES)  # a gap, a run, a gap, a run ...
        ends = list(itertools.accumulate(steps))
        shape.append(ends[-1])
        whole = data.draw(st.booleans())
        ranges.append(((0, ends[-1]),) if whole else tuple(itertools.pairwise(ends))[::2])
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    file = tmp_path_factory.mktemp("parts") / "model.safetensors"
    save_file({"before": torch.ones(3), "found": tensor}, file)
    stored = StoredWeights.open("here", (file,)).tensors["found"]
    expected = tensor
    for dimension, along in enumerate(ranges):
        indices = [index for start, stop in along for index in range(start, stop)]
        expected = expected.index_select(dimension, torch.tensor(indices))
    assert torch.equal(stored.lazy({}, tuple(ranges))[...], expected)
