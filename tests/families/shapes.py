"""Whether a family's narrower targets are its reference without the rest of its width: checks that say what is wrong."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from forward import logits_of, randomised, some_tokens
from masks import output_width, projected, without_experts, without_heads, without_neurons
from parity import SELECTIONS, generation_of, loaded_from, logits_with
from table import CHANGES, DECODERS
from tiny import DEPTH, tiny_fields
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inheritune.arch import Selection, find_structure, legal_head_sizes, save_model
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive
from inheritune.recipe import Reference

AXES = ("heads", "neurons", "hidden", "experts", "head size")
HIDDEN, HEADS, EXPERTS = 40, 4, 6  # no width but the hidden size is 40
TOLERANCE = 1e-5
_HIDDEN_NAMES = (
    "hidden_size",
    "n_embd",
    "d_model",
    "embedding_dim",
    "emb_dim",
    "embedding_size",
    "word_embed_proj_dim",
)
_EXPERT_NAMES = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_MLP_NAMES = (
    "intermediate_size", "ffn_dim", "n_inner", "dff", "dim_ff", "ffn_hidden_size", "d_inner", "decoder_ffn_dim",
    "feed_forward_size", "intermediate_size_mlp", "dense_intermediate_size", "prefix_dense_intermediate_size",
    "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size",
    "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size",
)  # fmt: skip

# What makes a tiny model of a hidden size of 40: heads of an even size, sizes that must fit each other.
_FITTING: dict[str, dict[str, Any]] = {
    "helium": {"head_dim": 10},
    "hunyuan_v1_moe": {"num_experts": EXPERTS, "moe_topk": 2},
    "hy_v4": {"index_topk": 12},  # all tokens of a generation: with a cache ties fall otherwise
    "laguna": {"num_attention_heads_per_layer": [4] * DEPTH},
    "persimmon": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}},
    "phi": {"head_dim": 8},
    "xlnet": {"d_head": 10},
}
_AS_IT_IS = {"olmoe"}  # its norms do not know a head size of its own
# The MLP is four times as wide as the hidden size, and no field says otherwise: its neurons go with the channels.
_FOLLOWING = {"bloom", "gpt_neox_japanese", "mpt", "openai-gpt"}

CHANNELS = [channel for channel in range(HIDDEN) if channel % 5 not in (1, 3)]
SOME_HEADS = ([1, 2], [2, 3], [1, 3])  # one of each group, a whole group, every second
SOME_EXPERTS = [0, 2, 3, 5]


def config_of(kind: str, **more: Any) -> PretrainedConfig:
    """The family's tiny config, with a hidden size like no other width."""
    fields: dict[str, Any] = tiny_fields(kind) | CHANGES.get(kind, {})
    fields |= {"is_decoder": True} if kind in DECODERS else {}
    if not any(name.startswith(("mamba_", "n_groups")) for name in fields):  # whose sizes must fit the hidden size
        fields |= {name: HIDDEN for name in _HIDDEN_NAMES if fields.get(name) == 32}
    fields |= {name: EXPERTS for name in _EXPERT_NAMES if fields.get(name) == 4}
    if kind == "dbrx":
        fields["ffn_config"] = fields["ffn_config"] | {"hidden_size": HIDDEN, "moe_num_experts": EXPERTS}
    return CONFIG_MAPPING[kind](**fields | _FITTING.get(kind, {}) | more)


def reference_of(kind: str) -> PreTrainedModel:
    """A tiny model with every parameter random, in which heads are no slices of the hidden size where that can be."""

    def built(**more: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        made = randomised(AutoModelForCausalLM.from_config(config_of(kind, **more), dtype=torch.float32), scale=0.1)
        for name, buffer in made.named_buffers():  # of routers, which choose experts by it
            if "bias" in name and name in made.state_dict() and buffer.is_floating_point():
                buffer[:-1].add_(torch.randn_like(buffer[:-1]) * 0.3)  # ZAYA's last one is set whenever it is loaded
        return made

    model = built()
    if kind in _AS_IT_IS or output_width(model, find_structure(model).blocks) != HIDDEN:
        return model
    try:
        other = built(head_dim=8)
    except AttributeError:  # a property
        return model
    return other if output_width(other, find_structure(other).blocks) != HIDDEN else model


def some_neurons(width: int) -> list[int]:
    """Some of the neurons; of shared experts, which are as wide as two, the same of each pair."""
    if width in (96, 32):
        return [2 * unit + one for unit in some_neurons(width // 2) for one in (0, 1)]
    return [unit for unit in range(width) if (unit % 3 != 1 if width == 48 else unit % 2)]


@dataclass
class Part:
    """A part of a model's width: the selection, and the hooks that switch off the rest."""

    selection: dict[str, Any] = field(default_factory=dict)
    heads: list[int] | None = None
    size: list[int] | None = None
    neurons: Any = None
    hidden: list[int] | None = None
    experts: list[int] | None = None

    def __or__(self, other: "Part") -> "Part":
        both = {name: value for part in (self, other) for name, value in vars(part).items() if value is not None}
        return Part(**both | {"selection": self.selection | other.selection})

    def logits(self, reference: PreTrainedModel, kept: list[int], tokens_BT: torch.Tensor) -> torch.Tensor:
        """The reference's logits without the rest, and without other blocks than `kept`."""
        blocks = find_structure(reference).blocks
        model = reference if self.hidden is None else projected(reference, HIDDEN, self.hidden)
        with ExitStack() as hooks:
            if self.heads is not None or self.size is not None:
                heads = self.heads if self.heads is not None else list(range(HEADS))
                hooks.enter_context(without_heads(model, blocks, HEADS, heads, self.size))
            if self.neurons is not None:
                hooks.enter_context(without_neurons(model, blocks, HIDDEN, self.neurons))
            if self.experts is not None:
                hooks.enter_context(without_experts(model, blocks, EXPERTS, self.experts))
            return logits_with(model, kept, tokens_BT)


def parts_of(reference: PreTrainedModel, axis: str) -> list[Part]:
    """The parts of an axis that are tried, in this order, until one is not refused."""
    kind, values = reference.config.model_type, reference.config.to_dict()
    blocks = find_structure(reference).blocks
    slices = output_width(reference, blocks) == HIDDEN
    if axis in ("heads", "hidden") and slices:
        parts = []
        for heads in SOME_HEADS:
            channels = [head * 10 + one for head in heads for one in range(10)]
            follow = (
                (lambda _, own=channels: [4 * c + i for c in own for i in range(4)]) if kind in _FOLLOWING else None
            )
            chosen = {"heads": tuple(heads), "hidden": tuple(channels)}
            parts.append(Part(chosen, heads=heads, hidden=channels, neurons=follow))
        return parts
    if axis == "heads":
        return [Part({"heads": tuple(heads)}, heads=heads) for heads in SOME_HEADS]
    if axis == "hidden":
        return [Part({"hidden": tuple(CHANNELS)}, hidden=CHANNELS)]
    if axis == "experts":
        return [Part({"experts": tuple(SOME_EXPERTS)}, experts=SOME_EXPERTS)]
    if axis == "head size":
        try:
            sizes = legal_head_sizes(reference)
        except InputError:
            sizes = {}
        some = [sizes[size] for size in (4, 2, 1) if size in sizes] or [(0, 1)]
        return [Part({"head_size": size}, size=list(size)) for size in some]
    given = {name: values[name] for name in _MLP_NAMES if values.get(name) or (name in values and name == "n_inner")}
    single = {name: width for name, width in given.items() if isinstance(width, int)}
    for name, each in given.items():
        single |= {f"{name}.{block}": width for block, width in enumerate(each)} if isinstance(each, list) else {}
    width = next(iter(single.values()), 4 * HIDDEN)  # as GPT-2's is where its config does not say
    whole = Part({"neurons": tuple(some_neurons(width))}, neurons=some_neurons)
    if kind == "dbrx":
        single = {"ffn_config.ffn_hidden_size": 16}
    by_field = tuple((name, tuple(some_neurons(width))) for name, width in single.items())
    return [whole, Part({"by_field": by_field}, neurons=some_neurons)] if by_field else [whole]


@dataclass
class Verdict:
    """What became of an axis: refused with a reason, or taken, with faults or none."""

    refused: str = ""
    faults: list[str] = field(default_factory=list)


def has_slices(kind: str) -> bool:
    """Whether a family's heads are slices of its hidden size."""
    reference = reference_of(kind)
    return output_width(reference, find_structure(reference).blocks) == HIDDEN


@lru_cache(maxsize=2)
def verdicts(kind: str) -> dict[str, Verdict]:
    """The verdict on each axis of a family that it has, and on all that are taken at once ("all"), without blocks."""
    reference, found, taken = reference_of(kind), dict[str, Verdict](), list[Part]()
    for axis in AXES:
        if (
            axis == "experts"
            and not any(reference.config.to_dict().get(name) for name in _EXPERT_NAMES)
            and kind != "dbrx"
        ):
            continue
        refused = ""
        for part in parts_of(reference, axis):
            verdict = check(reference, part, list(range(DEPTH)))
            if not verdict.refused:
                taken.append(part)
                break
            refused = refused or verdict.refused
        found[axis] = Verdict(refused) if verdict.refused else verdict
    if taken and not any(verdict.faults for verdict in found.values()):
        found["all"] = _combined(reference, taken)
    return found


def _combined(reference: PreTrainedModel, taken: list[Part]) -> Verdict:
    """All axes at once, for the first selection of blocks that can be inherited."""
    whole = Part()
    for part in taken:
        whole |= part
    verdict = Verdict("nothing was tried")
    for kept in (*SELECTIONS[4:], SELECTIONS[1]):
        verdict = check(reference, whole, kept, thorough=True)
        if not verdict.refused:
            break
    return verdict


def check(reference: PreTrainedModel, part: Part, kept: list[int], thorough: bool = False) -> Verdict:
    """Compare a target with the reference without the rest; `thorough`: also files, and generation with a cache."""
    spec, tokens_BT = TargetSpec(tuple(kept), width=Selection(**part.selection)), some_tokens()
    try:
        target, _ = derive(reference, spec)
    except InputError as error:
        return Verdict(error.problems[0].what)
    verdict = Verdict()
    found, expected = logits_of(target, tokens_BT), part.logits(reference, kept, tokens_BT)
    apart = (found - expected).abs().max().item()
    if not apart <= TOLERANCE:
        verdict.faults.append(f"logits differ from those without the rest by {apart:.1e}")
    if (expected - logits_with(reference, kept, tokens_BT)).abs().max() < 1e-4:
        verdict.faults.append("the yardstick is blunt: the logits are those with the rest")
    if thorough:
        verdict.faults += _faults_of_files(reference, target, spec, tokens_BT)
    return verdict


def _faults_of_files(
    reference: PreTrainedModel, target: PreTrainedModel, spec: TargetSpec, tokens_BT: torch.Tensor
) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        save_model(target, None, Path(folder) / "target")
        loaded, faults, _, _ = loaded_from(Path(folder) / "target")
        save_model(reference, None, Path(folder) / "reference")
        read, _ = derive(Reference(path=str(Path(folder) / "reference")), spec)
    if not torch.equal(logits_of(loaded, tokens_BT), logits_of(target, tokens_BT)):
        faults.append("the saved model's logits are others")
    tensors = target.state_dict()
    differing = [name for name, tensor in read.state_dict().items() if not torch.equal(tensors[name], tensor)]
    if differing:
        faults.append(f"from files: {differing[0]} is another")
    generated = generation_of(target)
    if generated != "same" and generated != generation_of(reference):
        faults.append(f"generation: {generated}")
    return faults
