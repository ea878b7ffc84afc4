"""A tokenizer with fewer tokens, numbered anew."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.compatibility import save_tokenizer
from inheritune.arch.token_parts import core_fields, named_in
from inheritune.arch.tokenization import PROBES
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDY = "keep it (needed_tokens gives all that must stay)"


def trim_tokenizer(tokenizer: "PreTrainedTokenizerBase", keep: Iterable[int]) -> "PreTrainedTokenizerBase":
    """A tokenizer with the tokens `keep` only, numbered from 0 in the same order.

    Merges whose parts and result are kept stay; normaliser, pre-tokenizer, decoder and chat template stay as they are.

    Raises InputError for a tokenizer that cannot lose tokens (see `core_fields`), and for a dropped token that
    it puts around texts, or needs for unknown words or padding.
    """
    from transformers import AutoTokenizer

    fields = core_fields(tokenizer)
    place = tokenizer.name_or_path or type(tokenizer).__name__
    number = {token: new for new, token in enumerate(sorted(set(keep)))}
    core = _trimmed(fields, number, place)
    ids = tokenizer.get_vocab()
    for role, name in tokenizer.special_tokens_map.items():
        if role.endswith("_token") and ids.get(name, -1) not in number:
            raise InputError(place, f"its {role} {name} is not kept", _REMEDY)
    kept = {one["content"] for one in core["added_tokens"]} | set(_entries(core["model"]))
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        _write(Path(folder) / "tokenizer.json", core)
        settings = Path(folder) / "tokenizer_config.json"
        _write(settings, _settings(json.loads(settings.read_text(encoding="utf-8")), kept, number))
        trimmed: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for name in ("local_files_only", "is_local", "name_or_path"):  # how it was loaded here is not to be saved with it
        trimmed.init_kwargs.pop(name, None)
    trimmed.name_or_path = tokenizer.name_or_path
    _check(tokenizer, trimmed, core, number, place)
    return trimmed


def _trimmed(fields: dict[str, Any], number: dict[int, int], place: str) -> dict[str, Any]:
    """The tokenizer.json of the kept tokens; `number` has their new ids."""
    model: dict[str, Any] = fields["model"]
    added = [one | {"id": number[one["id"]]} for one in fields["added_tokens"] if one["id"] in number]
    entries = _entries(model)
    kept = {word: number[index] for word, index in entries.items() if index in number}
    unknown = model.get("unk_token")
    if unknown in entries and unknown not in kept:
        raise InputError(place, f"its token for unknown text {unknown} is not kept", _REMEDY)
    for name in sorted(named_in(fields["post_processor"])):
        if name not in kept and name not in {one["content"] for one in added}:
            raise InputError(place, f"it puts {name} around texts, which is not kept", _REMEDY)
    if model["type"] == "Unigram":
        rest: dict[str, Any] = {"vocab": [word for at, word in enumerate(model["vocab"]) if at in number]}
        if model["unk_id"] is not None:
            if model["unk_id"] not in number:
                raise InputError(place, f"its token for unknown text, {model['unk_id']}, is not kept", _REMEDY)
            rest["unk_id"] = number[model["unk_id"]]
    else:
        rest = {"vocab": kept}
    if model["type"] == "BPE":
        prefix = len(model.get("continuing_subword_prefix") or "")
        rest["merges"] = [
            [left, right] for left, right in model["merges"]
            if left in kept and right in kept and left + right[prefix:] in kept
        ]  # fmt: skip
    padding = fields.get("padding")
    if padding is not None:
        if padding["pad_id"] not in number:
            raise InputError(place, f"its padding token {padding['pad_token']} is not kept", _REMEDY)
        padding = padding | {"pad_id": number[padding["pad_id"]]}
    around = _renumbered(fields["post_processor"], number)
    return fields | {"model": model | rest, "added_tokens": added, "padding": padding, "post_processor": around}


def _entries(model: dict[str, Any]) -> dict[str, int]:
    words = model["vocab"]
    return {word: at for at, (word, _) in enumerate(words)} if isinstance(words, list) else words


def _renumbered(processor: Any, number: dict[int, int]) -> Any:
    """A post-processor with new ids."""
    if not isinstance(processor, dict):
        return processor
    changed: dict[str, Any] = {
        part: [processor[part][0], number[processor[part][1]]] for part in ("sep", "cls") if part in processor
    }
    if "special_tokens" in processor:
        changed["special_tokens"] = {
            name: one | {"ids": [number[index] for index in one["ids"]]}
            for name, one in processor["special_tokens"].items()
        }
    if "processors" in processor:
        changed["processors"] = [_renumbered(one, number) for one in processor["processors"]]
    return processor | changed


def _settings(fields: dict[str, Any], kept: set[str], number: dict[int, int]) -> dict[str, Any]:
    """tokenizer_config.json without the dropped tokens, which would be added anew."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(fields.get(name), list):
            fields[name] = [one for one in fields[name] if (one["content"] if isinstance(one, dict) else one) in kept]
    if "added_tokens_decoder" in fields:
        listed = fields["added_tokens_decoder"].items()
        fields["added_tokens_decoder"] = {str(number[int(at)]): one for at, one in listed if int(at) in number}
    return fields


def _write(file: Path, fields: dict[str, Any]) -> None:
    file.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")


def _check(
    before: "PreTrainedTokenizerBase", after: "PreTrainedTokenizerBase", core: dict[str, Any], number: dict[int, int],
    place: str,
) -> None:  # fmt: skip
    """Raise InputError where a token got another id than it should, or the class splits text by rules of its own."""
    from tokenizers import Tokenizer

    found = after.get_vocab()
    wrong = [word for word, index in before.get_vocab().items() if index in number and found.get(word) != number[index]]
    if wrong or len(found) > len(number):
        named = wrong[0] if wrong else next(iter(found.keys() - before.get_vocab().keys()), "")
        what = f"its tokens cannot be numbered anew: {named!r} gets the id {found.get(named)}"
        raise InputError(place, what, "keep the full vocabulary")
    judge = Tokenizer.from_str(json.dumps(core))
    judge.no_truncation()
    judge.no_padding()
    if any(after(text)["input_ids"] != judge.encode(text).ids for text in PROBES):
        what = f"its class {type(after).__name__} changes how its tokenizer.json splits text"
        raise InputError(place, what, "keep the full vocabulary")
