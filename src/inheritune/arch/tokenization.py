"""SentencePiece tokenizers as they were trained: where transformers' version splits text differently, another is made.

transformers 5 has no slow LLaMA tokenizer any more (`use_fast` is ignored). From a `tokenizer.model` alone, and from a
tokenizer.json that is to be a LlamaTokenizer, it makes one of its own without the file's normaliser settings, and with
one space less at the start of a text that begins with one. Here the file itself decides.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError
from inheritune.limits import WIDTH
from inheritune.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
PROBES = (
    "The quick brown fox, 3.14 x 10^2.",
    " leading space",
    "   three leading, two  inside and   three",
    "trailing  ",
    "line\nline\n\n  - item\r\nend\n",
    "\ttab\tand\t\ttabs",
    "def f(x):\n    if x:\n        return  x['a']\n",
    "naïve café e\u0301 ﬁne ½ Å ①",
    "東京 日本語 한국어 Ελλάδα кириллица",
    "smile 🙂 flag 🇨🇭",
    "a\u00a0b\u3000c\u200bd",
    " ",
    "   ",
    "0123456789 12 345",
    "!!! ... --- === ((( ))) <<< >>>",
)
"""Texts on which tokenizers are told apart: spaces, line ends, code, letters with several spellings, other scripts."""

_WORDS = 4096


@dataclass(frozen=True)
class SentencePieceFiles:
    """A tokenizer as it was published: its SentencePiece model, and files that may be beside it."""

    model: Path
    tokenizer_json: Path | None = None
    settings: Path | None = None
    """The tokenizer_config.json."""

    @property
    def legacy(self) -> bool:
        """Whether text behind a special token gets a space before it, as all text does; LLaMA's default."""
        if self.settings is None:
            return True
        fields = json.loads(self.settings.read_text(encoding="utf-8"))
        return not isinstance(fields, dict) or fields.get("legacy") is not False


def check_ids(tokenizer: "PreTrainedTokenizerBase", place: str, remedy: str) -> None:
    """Raise InputError for two entries with one id, of which chance decides which one is lost on saving, and for ids so
    large that the list of all of them would take the memory.
    """
    if (size := vocabulary_size(tokenizer)) > WIDTH:
        raise InputError(place, f"an id of {size - 1:,}; ids up to {WIDTH - 1:,} are taken", remedy)
    if not tokenizer.is_fast:
        return
    of: dict[int, str] = {}
    for token, number in tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).items():
        if number in of:
            first, second = sorted((of[number], token))
            raise InputError(place, f"its tokens {first!r} and {second!r} have the same id {number}", remedy)
        of[number] = token


def truest(
    tokenizer: "PreTrainedTokenizerBase", files: SentencePieceFiles, say: Callable[[str], None]
) -> "PreTrainedTokenizerBase":
    """`tokenizer`, or, where it splits text differently from its SentencePiece model, one that does not.

    Tried in turn: the tokenizer.json as it was published, a fast one built from the SentencePiece model's own settings,
    and SentencePiece itself (a slow one). `say` is told what was done. Plain transformers loads each of them again from
    what it saves. A file that is not SentencePiece's, or has other entries, decides nothing.
    """
    file = files.model
    judge = _judge(file)
    if judge is None or not _same_entries(tokenizer, judge):
        return tokenizer
    wrong = _wrong(tokenizer, judge)
    if not wrong:
        return tokenizer
    fault = (
        f"tokenizer: transformers' {type(tokenizer).__name__} splits {len(wrong)} of {len(PROBES) + 1} test texts"
        f" differently from {file.name} (such as {wrong[0][:40]!r})"
    )
    for kind, fill in (
        ("the tokenizer.json as published", _publish),
        ("a fast tokenizer built from that file", _rebuild),
        ("SentencePiece itself, which is slow", _keep),
    ):
        with tempfile.TemporaryDirectory() as name:
            other = _loaded(tokenizer, files, Path(name), fill)
        if other is not None and not _wrong(other, judge) and _same_frame(tokenizer, other):
            say(f"{fault}; taken instead: {kind}")
            return other
    say(f"{fault}, and no other could be made that does not")
    return tokenizer


def _judge(file: Path) -> Any:
    """The SentencePiece processor of a file; None for files of other kinds under such a name, as tiktoken's."""
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        return None


def _same_entries(tokenizer: "PreTrainedTokenizerBase", judge: Any) -> bool:
    vocabulary = tokenizer.get_vocab()
    for index in range(judge.get_piece_size()):
        special = judge.is_control(index) or judge.is_unknown(index) or judge.is_unused(index) or judge.is_byte(index)
        if not special and vocabulary.get(judge.id_to_piece(index)) != index:
            return False
    return True


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _wrong(tokenizer: "PreTrainedTokenizerBase", judge: Any) -> list[str]:
    """The test texts that the tokenizer splits otherwise."""
    return [text for text in (*PROBES, _words(judge)) if _ids(tokenizer, text) != judge.encode(text)]


def _words(judge: Any) -> str:
    """A text of words that are entries: where merges are in a wrong order, some are split."""
    pieces = (judge.id_to_piece(index) for index in range(judge.get_piece_size()))
    words = [piece[1:] for piece in pieces if piece[0] == "▁" and piece[1:].isalpha()]
    return " ".join(words[:: max(1, len(words) // _WORDS)])


def _same_frame(left: "PreTrainedTokenizerBase", right: "PreTrainedTokenizerBase") -> bool:
    """Whether both put the same special tokens around a text and have the same entries."""
    return bool(left("")["input_ids"] == right("")["input_ids"] and left.get_vocab() == right.get_vocab())


def _loaded(
    tokenizer: "PreTrainedTokenizerBase",
    files: SentencePieceFiles,
    folder: Path,
    fill: Callable[[SentencePieceFiles, Path], str | None],
) -> "PreTrainedTokenizerBase | None":
    """A tokenizer with the other's settings (chat template, added tokens ...) and another core, by way of files."""
    import transformers

    tokenizer.save_pretrained(folder)
    kind = fill(files, folder)
    if kind is None:
        return None
    settings = folder / "tokenizer_config.json"
    fields = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": kind}
    around = {"special_tokens_pattern": _pattern(tokenizer)} if kind == "SentencePieceBackend" else {}
    if around:
        fields |= around | {"backend": "sentencepiece", "legacy": True}
    settings.write_text(json.dumps(fields), encoding="utf-8")
    try:
        loaded: PreTrainedTokenizerBase = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except Exception:  # a core that this kind of file does not allow: the next kind is tried
        return None
    loaded.init_kwargs |= around  # else what is put around a text would not be saved
    loaded.name_or_path = tokenizer.name_or_path
    return loaded


def _pattern(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What is put around a text, in the words of transformers' slow tokenizers."""
    around = tokenizer("")["input_ids"]
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    return {(first,): "bos", (last,): "eos", (first, last): "bos_eos"}.get(tuple(around), "none")


def _publish(files: SentencePieceFiles, folder: Path) -> str | None:
    if files.tokenizer_json is None:
        return None
    shutil.copy(files.tokenizer_json, folder / "tokenizer.json")
    return "TokenizersBackend"


def _keep(files: SentencePieceFiles, folder: Path) -> str:
    (folder / "tokenizer.json").unlink(missing_ok=True)
    shutil.copy(files.model, folder / "tokenizer.model")
    return "SentencePieceBackend"


def _rebuild(files: SentencePieceFiles, folder: Path) -> str | None:
    """Put the file's vocabulary, normaliser and handling of spaces into the tokenizer.json."""
    from tokenizers import Tokenizer
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    place = folder / "tokenizer.json"
    if not place.is_file():
        return None
    extractor = SentencePieceExtractor(str(files.model))
    fields, spec = json.loads(place.read_text(encoding="utf-8")), extractor.proto.normalizer_spec
    prefix = bool(spec.add_dummy_prefix)
    core = Tokenizer(_model(extractor))
    steps, split = list(_normalisers(spec)), None
    if prefix and (files.legacy or spec.remove_extra_whitespaces):
        steps.insert(-1, {"type": "Prepend", "prepend": " "})
    elif prefix:  # a space before the first piece alone; a second Metaspace, as the first would not double a space
        split = {"type": "Sequence", "pretokenizers": [_metaspace(" ", "first"), _metaspace("▁", "never")]}
    fields["model"] = json.loads(core.to_str())["model"]
    fields["normalizer"] = {"type": "Sequence", "normalizers": steps}
    fields["pre_tokenizer"] = split
    fields["decoder"] = {"type": "Sequence", "decoders": list(_decoders(prefix))}
    place.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
    return "TokenizersBackend"


def _model(extractor: Any) -> Any:
    from tokenizers.models import BPE, Unigram

    trained = extractor.proto.trainer_spec
    kind = Unigram if trained.model_type == 1 else BPE
    parts = extractor.extract(kind)
    if kind is Unigram:
        return Unigram(parts["vocab"], unk_id=trained.unk_id, byte_fallback=trained.byte_fallback)
    scores = {piece.piece: piece.score for piece in extractor.proto.pieces}
    return BPE(
        parts["vocab"],
        sorted(parts["merges"], key=lambda pair: -scores["".join(pair)]),  # as SentencePiece merges, not by number
        unk_token=trained.unk_piece,
        fuse_unk=True,
        byte_fallback=trained.byte_fallback,
    )


def _normalisers(spec: Any) -> Iterator[dict[str, Any]]:
    """SentencePiece's own order: replacement of characters, then of spaces."""
    import base64

    if spec.precompiled_charsmap:
        table = base64.b64encode(spec.precompiled_charsmap).decode()
        yield {"type": "Precompiled", "precompiled_charsmap": table}
    if spec.remove_extra_whitespaces:
        yield {"type": "Strip", "strip_left": True, "strip_right": True}
        yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def _metaspace(replacement: str, scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": False}


def _decoders(prefix: bool) -> Iterator[dict[str, Any]]:
    yield {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    if prefix:
        yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}
