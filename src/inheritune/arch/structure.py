"""What a decoder is made of, found in the model itself: its repeated blocks, and what stands around them."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

# Attributes that only say where a block stands: cache slots and debugging names. Everything else that differs
# between a block and its copy means that the copy computes something else.
_POSITION = re.compile(r"^(layer_idx|layer_id|layer_index|layer_number|block_idx|idx)$")

# Config fields by which some architectures choose a block's function from its index alone, with the values that are
# harmless. A prefix of the blocks keeps every index; any other selection would change what the blocks compute.
_INDEX_FIELDS: dict[str, tuple[Any, ...]] = {
    "hybrid_layer_ids": ([], None),  # zamba2: one block at several places, with an adapter in it for each of them
    "num_kv_shared_layers": (0, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
}


@dataclass(frozen=True)
class Structure:
    """Where a model keeps its blocks: `blocks` is the dotted name of the list, `count` its length."""

    blocks: str
    count: int

    def name_in(self, index: int, rest: str) -> str:
        """The full name of a block's tensor."""
        return f"{self.blocks}.{index}.{rest}"

    def split(self, name: str) -> tuple[int, str] | None:
        """The block and the rest of a tensor's name; None for a tensor outside the blocks."""
        prefix = self.blocks + "."
        if not name.startswith(prefix):
            return None
        index, _, rest = name[len(prefix) :].partition(".")
        return int(index), rest


def layer_count(config: "PretrainedConfig") -> int:
    """The number of blocks that a config declares. Raises InputError where it declares none."""
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int) or count < 1:
        raise InputError(
            _title(config),
            "the config does not say how many blocks there are",
            "use a decoder language model",
        )
    return count


def check_decoder(config: "PretrainedConfig") -> None:
    """Raise InputError, with the reason, unless `config` is that of a decoder-only text model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    remedy = "use a decoder-only language model (one that AutoModelForCausalLM loads)"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(_title(config), f"{config.model_type} is an encoder-decoder", remedy)
    either = config.model_type in MASKED or config.model_type == "bert-generation"  # gpt_neox says false, and is one
    if either and getattr(config, "is_decoder", True) is False:
        raise InputError(_title(config), f"{config.model_type} is an encoder here (is_decoder is false)", remedy)
    if config.get_text_config() is not config:
        raise InputError(_title(config), f"{config.model_type} wraps a text model in a larger one", remedy)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in CAUSAL and not remote:
        raise InputError(_title(config), f"model type {config.model_type!r} has no causal language model", remedy)
    layer_count(config)


def find_structure(model: "PreTrainedModel") -> Structure:
    """Find the list of blocks: the outermost list of modules with parameters as long as the config's number of layers.

    Raises InputError where there is none or more than one at the same depth.
    """
    from torch import nn

    count = layer_count(model.config)
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and next(module.parameters(), None) is not None
    ]
    lists.sort(key=lambda name: name.count("."))
    if not lists or (len(lists) > 1 and lists[0].count(".") == lists[1].count(".")):
        found = "none" if not lists else " and ".join(lists)
        raise InputError(
            _title(model.config),
            f"the model's {count} blocks are not in one list of modules (found: {found})",
            "use a decoder whose blocks are a plain list",
        )
    return Structure(lists[0], count)


def check_movable(config: "PretrainedConfig", kept: list[int]) -> None:
    """Raise InputError where these blocks would compute something else at their new places."""
    if kept == list(range(len(kept))):
        return
    for name, harmless in _INDEX_FIELDS.items():
        value = getattr(config, name, None)
        if value not in harmless:
            raise InputError(
                _title(config),
                f"{name} is {value}, so a block's function depends on its place and blocks {kept} would change",
                "inherit the first blocks (choose: first)",
            )


def check_cache(config: "PretrainedConfig", short: "PretrainedConfig") -> None:
    """Raise InputError where a model of `short` could not generate with a cache, though one of `config` can.

    transformers asks the first attention block how long the cached sequence is: of a hybrid, blocks without any
    attention among them cannot be run.
    """
    if _has_cache(config) and not _has_cache(short):
        raise InputError(
            _title(config),
            f"a hybrid: none of the {layer_count(short)} blocks chosen has attention, so transformers cannot run them",
            "choose more blocks, or others, so that one with attention is among them",
        )


def _has_cache(config: "PretrainedConfig") -> bool:
    from transformers import DynamicCache

    try:
        DynamicCache(config=config).get_seq_length()
    except ValueError:
        return False
    return True


def differences(source: "nn.Module", target: "nn.Module") -> list[str]:
    """What makes a block compute something else than the block it was copied from, weights aside.

    Compares the modules' classes, the names and shapes of their tensors, and every plain attribute but those that
    only say where the block stands.
    """
    found = []
    sources, targets = dict(source.named_modules()), dict(target.named_modules())
    for name in sorted(sources.keys() ^ targets.keys()):
        found.append(f"module {name} is in only one of them")
    for name in sources.keys() & targets.keys():
        left, right = sources[name], targets[name]
        if type(left) is not type(right):
            found.append(f"{name} is {type(right).__name__}, was {type(left).__name__}")
        for key in vars(left).keys() & vars(right).keys():
            a, b = vars(left)[key], vars(right)[key]
            plain = isinstance(a, bool | int | float | str | None) and isinstance(b, bool | int | float | str | None)
            if plain and a != b and not key.startswith("_") and key != "training" and not _POSITION.match(key):
                found.append(f"{name}.{key} is {b}, was {a}".lstrip("."))
    shapes = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}
    for name, tensor in target.state_dict().items():
        if shapes.pop(name, None) != tuple(tensor.shape):
            found.append(f"{name} has another shape")
    return found + [f"{name} is missing" for name in shapes]


def _title(config: "PretrainedConfig") -> str:
    return getattr(config, "name_or_path", "") or config.model_type
