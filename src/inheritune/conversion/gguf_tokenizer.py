"""What llama.cpp's converter has to be told about a tokenizer, as it knows published ones only."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import sentencepiece_model
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LATER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTE_LEVEL = f"'s|'t|'re|'ve|'m|'ll|'d|{_WORDS}|\\s+"
"""GPT-2's rule, which is the one that `ByteLevel` applies by itself."""

_PRE_TOKENIZERS = {
    (_BYTE_LEVEL,): "gpt-2",
    (r"\p{N}", _BYTE_LEVEL): "smollm",
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _LATER,): "qwen2",
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _LATER,): "llama-bpe",
}
"""llama.cpp's name for rules that split a text before any merge (its llama-vocab.cpp), by the rules in their order."""

PRE_TOKENIZER_NAMES = tuple(_PRE_TOKENIZERS.values())

_REMEDY = "use the folder with transformers (docs/using.md), or take a reference with a tokenizer of these kinds"


@dataclass(frozen=True)
class TokenizerHints:
    """`pre`: llama.cpp's name for how the tokenizer splits texts before merging, for where the converter has none.
    `space_prefix`: whether it puts a space before a text; None where the converter decides.
    """

    pre: str | None = None
    space_prefix: bool | None = None


def prepare_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path, stage: Path) -> TokenizerHints:
    """Put the tokenizer of the model in `folder` into `stage`, in files that the converter reads right.

    A SentencePiece model that the folder lacks is made. Raises InputError for a tokenizer that llama.cpp cannot have.
    """
    place = str(folder)
    tokenizer.save_pretrained(stage)
    if not tokenizer.is_fast:
        if not (folder / "tokenizer.model").is_file():
            what = f"its tokenizer is {type(tokenizer).__name__}, without a tokenizer.json or a tokenizer.model"
            raise InputError(place, what, _REMEDY)
        shutil.copy(folder / "tokenizer.model", stage / "tokenizer.model")
        return TokenizerHints()
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    model = fields["model"]
    if model["type"] != "BPE":
        raise InputError(place, f"its tokenizer is {model['type']}, and only BPE is converted", _REMEDY)
    if "ByteLevel" in json.dumps(fields["pre_tokenizer"]):
        return TokenizerHints(pre=pre_tokenizer_name(fields))
    if not model["byte_fallback"]:
        what = "its tokenizer neither works on bytes nor falls back to them, and llama.cpp spells unknown text in bytes"
        raise InputError(place, what, _REMEDY)
    content, prefix = sentencepiece_model(tokenizer, place, _REMEDY)
    (stage / "tokenizer.model").write_bytes(content)
    return TokenizerHints(space_prefix=prefix)


def pre_tokenizer_name(fields: dict[str, Any]) -> str | None:
    """llama.cpp's name for the rules of a tokenizer.json that works on bytes; None where none is known here.

    The rules must be the same to the letter, and entries that are whole words be treated alike (`ignore_merges`).
    """
    kind = (fields.get("normalizer") or {}).get("type")
    rules = _rules(fields["pre_tokenizer"])
    name = None if rules is None or kind not in (None, "NFC") else _PRE_TOKENIZERS.get(tuple(rules))
    return name if name is None or bool(fields["model"].get("ignore_merges")) == (name == "llama-bpe") else None


def _rules(step: dict[str, Any]) -> list[str] | None:
    """The regular expressions that a pre-tokenizer applies in turn; None where it does something else."""
    match step:
        case {"type": "Sequence", "pretokenizers": steps}:
            parts = [_rules(one) for one in steps]
            return None if None in parts else [rule for part in parts for rule in part or ()]
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return [_BYTE_LEVEL] if regex else []
        case {"type": "Digits", "individual_digits": True}:
            return [r"\p{N}"]
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return [regex]
    return None
