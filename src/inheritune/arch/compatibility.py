"""Writing config.json and tokenizer_config.json so that transformers 4 reads them as transformers 5 does.

transformers 5 renamed fields of both files. transformers 4 silently ignores the new names and uses its defaults (a
`rope_theta` of 10000). So both names are written. Where transformers 5 would read the result as another config, or
transformers 4 has no name for a setting, the file stays as transformers 5 writes it, and `Readers` says why.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.compatible_types import (
    BASE,
    BASE_BY_KIND,
    CHANGED_VALUES,
    EAGER_IN_4,
    EXACT_SCALING,
    READ_BY_4,
    RENAMED,
    SCALINGS,
    SCALINGS_OF,
    SHARE,
    TOKENIZERS_READ_BY_4,
    UNREAD_WHERE,
)
from inheritune.runlog import write_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_CONFIG = "config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"

_GENERIC_FAST = "PreTrainedTokenizerFast"


class _Inexpressible(Exception):
    """transformers 4 cannot express a config."""


def make_readable(folder: Path, config_class: "type[PretrainedConfig]") -> None:
    """Add to `folder`/config.json the names that transformers 4 reads. What transformers 5 reads stays the same."""
    place = folder / _CONFIG
    fields = json.loads(place.read_text(encoding="utf-8"))
    readable = with_older_names(fields, config_class)
    if readable != fields:
        write_text(place, json.dumps(readable, indent=2, sort_keys=True) + "\n")


def with_older_names(fields: dict[str, Any], config_class: "type[PretrainedConfig]") -> dict[str, Any]:
    """The fields of a config.json, and beside them those that transformers 4 reads.

    Returns `fields` unchanged where transformers 4 has no words for them, or where transformers 5 would then read
    another config.
    """
    try:
        readable = _with_older_names(fields)
    except _Inexpressible:
        return fields
    return readable if _same_config(fields, readable, config_class) else fields


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a tokenizer so that both versions of transformers load it, with the same ids."""
    tokenizer.save_pretrained(folder)
    place = folder / _TOKENIZER_CONFIG
    fields = json.loads(place.read_text(encoding="utf-8"))
    fields["tokenizer_class"] = _written_class(tokenizer)
    # transformers 4 has other defaults: its generic class also returns token_type_ids, which most decoders refuse
    fields["model_input_names"] = list(tokenizer.model_input_names)
    fields["padding_side"], fields["truncation_side"] = tokenizer.padding_side, tokenizer.truncation_side
    if fields["tokenizer_class"] == _GENERIC_FAST:
        split = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
        if "add_prefix_space" in split:  # transformers 4's generic class puts its own default into the tokenizer.json
            fields["add_prefix_space"] = split["add_prefix_space"]
    elif tokenizer.is_fast:  # its class in transformers 4 sets these anew, whatever is in the tokenizer.json
        around = tokenizer("")["input_ids"]
        fields["add_bos_token"] = around[:1] == [tokenizer.bos_token_id]
        fields["add_eos_token"] = around[-1:] == [tokenizer.eos_token_id]
    further = fields.get("extra_special_tokens")
    if isinstance(further, list):  # the name of a mapping in transformers 4
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    write_text(place, json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _written_class(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The name of the tokenizer's class to write.

    A class that only builds a tokenizer is not needed once there is a tokenizer.json. The generic class
    reads that file as it is in both versions, whereas a class such as LlamaTokenizer builds it anew in transformers 5,
    and puts other special tokens around a text in transformers 4.
    """
    kind = type(tokenizer)
    return _GENERIC_FAST if tokenizer.is_fast and _only_builds(kind) else kind.__name__


@dataclass(frozen=True)
class Readers:
    """Which versions of transformers load a checkpoint and compute the same."""

    model_type: str
    reason_for_5: str
    """Why transformers 4 cannot be used; "" where it can."""

    eager: bool
    """Whether transformers 4 needs attn_implementation="eager" for it."""


def readers_in(folder: Path) -> Readers:
    """The readers of a checkpoint's folder, by its config.json and tokenizer_config.json."""
    place = folder / _TOKENIZER_CONFIG
    kind = json.loads(place.read_text(encoding="utf-8")).get("tokenizer_class") if place.exists() else None
    return _readers(json.loads((folder / _CONFIG).read_text(encoding="utf-8")), kind)


def readers_of(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase | None") -> Readers:
    """The readers of the checkpoint that will be written of a model with this config, and of the tokenizer."""
    fields = with_older_names(json.loads(config.to_json_string()), type(config))
    return _readers(fields, None if tokenizer is None else _written_class(tokenizer))


def _readers(fields: Mapping[str, Any], tokenizer_class: str | None) -> Readers:
    kind, reason = str(fields.get("model_type")), ""
    # 4.57's scaled dot product attention ignores these settings, its eager attention does not
    eager = kind in EAGER_IN_4 or (kind == "gpt2" and bool(fields.get("scale_attn_by_inverse_layer_idx")))
    if tokenizer_class not in (None, *TOKENIZERS_READ_BY_4):
        reason = f"tokenizers of class {tokenizer_class} do not load in transformers 4, or were not tried"
    elif kind not in READ_BY_4:
        reason = f"models of type {kind} do not load in transformers 4, or were not tried"
    elif kind in UNREAD_WHERE and UNREAD_WHERE[kind][0](fields):
        reason = UNREAD_WHERE[kind][1]
    else:
        try:
            reason = "" if _with_older_names(fields) == fields else "transformers 4 has no words for its config"
        except _Inexpressible as error:
            reason = str(error)
    return Readers(kind, reason, eager)


def _only_builds(kind: "type[PreTrainedTokenizerBase]") -> bool:
    """Whether a class of transformers' has no behaviour besides its constructor."""
    for base in kind.__mro__:
        if base.__name__ == "TokenizersBackend":
            return True
        if not base.__module__.startswith("transformers."):
            return False
        if any(callable(value) or isinstance(value, property | classmethod | staticmethod)
               for name, value in vars(base).items() if name not in _BUILDING):  # fmt: skip
            return False
    return False


_BUILDING = ("__init__", "model", "slow_tokenizer_class")


def _with_older_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {name: _plain_numbers(value) for name, value in copy.deepcopy(dict(fields)).items()}
    kind = renamed.get("model_type", "")
    if renamed.get("dtype") is not None:
        renamed["torch_dtype"] = renamed["dtype"]
    for new, old in RENAMED.get(kind, {}).items():
        if new in renamed:
            renamed[old] = copy.deepcopy(renamed[new])
    for name, words in CHANGED_VALUES.get(kind, {}).items():
        if isinstance(renamed.get(name), list):
            renamed[name] = [words.get(word, word) for word in renamed[name]]
    return renamed | _rope(kind, renamed)


def _plain_numbers(value: Any) -> Any:
    """`value` with infinite numbers and NaN as Python's json writes them, which transformers 4 reads."""
    if isinstance(value, list):
        return [_plain_numbers(one) for one in value]
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {name: _plain_numbers(one) for name, one in value.items()}
    return value


def _rope(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` in the names of transformers 4. Raises _Inexpressible."""
    parameters = fields.get("rope_parameters")
    if not parameters:
        return {}
    kinds = {name: one for name, one in parameters.items() if isinstance(one, dict)}
    if not kinds:
        return _rope_of_all(kind, fields, parameters)
    names = BASE_BY_KIND.get(kind, {})
    if set(kinds) - set(names):
        raise _Inexpressible("transformers 4 has one rotary embedding for all layers")
    rope: dict[str, Any] = {"rope_scaling": None}
    for layer, one in kinds.items():
        base = names[layer]
        if rope.setdefault(base, one.get("rope_theta")) != one.get("rope_theta"):
            raise _Inexpressible("transformers 4 has one rope_theta for all layers")
        scaling = _scaling(kind, fields, one)
        if scaling is None:
            continue
        if layer != "full_attention":
            raise _Inexpressible(f"transformers 4 has no rope_scaling for {layer}")
        rope["rope_scaling"] = scaling
    return rope


def _rope_of_all(kind: str, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_scaling": _scaling(kind, fields, parameters)}
    if parameters.get("rope_theta") is not None:
        rope[BASE.get(kind, "rope_theta")] = parameters["rope_theta"]
    if parameters.get("partial_rotary_factor") is not None:
        rope[SHARE.get(kind, "partial_rotary_factor")] = parameters["partial_rotary_factor"]
    original = parameters.get("original_max_position_embeddings")
    if parameters.get("rope_type") == "longrope" and original is not None:
        rope["original_max_position_embeddings"] = original
    return rope


def _scaling(kind: str, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `rope_scaling` of transformers 4; None for none."""
    name = parameters.get("rope_type", "default")
    scaling = {
        field: copy.deepcopy(value)
        for field, value in parameters.items()
        if field not in ("rope_theta", "partial_rotary_factor", "rope_type", "type")
    }
    if name == "default":
        if scaling.keys() - {"original_max_position_embeddings"}:
            raise _Inexpressible(f"transformers 4 has no {', '.join(sorted(scaling))} for plain rotary embeddings")
        return None
    if name not in SCALINGS_OF.get(kind, SCALINGS):
        raise _Inexpressible(f"transformers 4 does not compute rotary embeddings of type {name} in {kind} alike")
    if name == "longrope":
        original, longest = scaling.get("original_max_position_embeddings"), fields.get("max_position_embeddings")
        factor = scaling.get("factor")
        if original and longest and factor and "attention_factor" not in scaling and factor != longest / original:
            raise _Inexpressible("transformers 4 takes the factor of longrope from the numbers of positions")
    exact = EXACT_SCALING.get(kind)
    if exact is None:
        return {"rope_type": name, **scaling}
    if name == "longrope":  # there it is a field beside rope_scaling
        scaling.pop("original_max_position_embeddings", None)
    if scaling.keys() != exact:
        raise _Inexpressible(f"transformers 4 wants {', '.join(sorted(exact))} in the rope_scaling of {kind}, no more")
    return {"type": name, **scaling}


def _same_config(left: dict[str, Any], right: dict[str, Any], config_class: "type[PretrainedConfig]") -> bool:
    """Whether this transformers makes the same config of both, except for names that only the second one has."""
    first = _read(left, config_class)
    try:
        second = _read(right, config_class)
    except Exception:  # whatever the code of a model that brings its own raises
        return False
    further = right.keys() - left.keys()
    return all(second.get(name) == value for name, value in first.items()) and second.keys() - first.keys() <= further


def _read(fields: dict[str, Any], config_class: "type[PretrainedConfig]") -> dict[str, Any]:
    values: dict[str, Any] = config_class.from_dict(_plain_numbers(copy.deepcopy(fields))).to_dict()
    rope = values.get("rope_parameters")
    if rope and rope.get("type") == rope.get("rope_type"):  # the older name of the same, which is kept
        values["rope_parameters"] = {name: value for name, value in rope.items() if name != "type"}
    return values
