"""SentencePiece tokenizers: where transformers' version splits text differently from the file, another one is made.

transformers 5 has no slow LLaMA tokenizer (`use_fast` is ignored). From a `tokenizer.model` alone, and from a
tokenizer.json of a LlamaTokenizer, it makes its own, without the file's normaliser settings and with one space less
where a text begins with a space. Here the file decides.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError
from inheritune.limits import WIDTH
from inheritune.token_ids import vocabulary_size

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
    """Raise InputError for two entries with one id, one of which is lost on saving, and for ids so large that a list
    of all of them would fill the memory.
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
    tokenizer: "PreTrainedTokenizerBase", files: SentencePieceFiles
) -> "tuple[PreTrainedTokenizerBase, str | None]":
    """`tokenizer`, or one that splits text as its SentencePiece model does, where this one does not; a line on that.

    Tried in turn: the tokenizer.json as it was published, a fast one built from the SentencePiece model's own settings,
    and SentencePiece itself (a slow one). Plain transformers loads what each one saves. A file that is not
    SentencePiece's, or has other entries, is ignored.
    """
    from sentencepiece import SentencePieceProcessor

    file = files.model
    try:
        processor = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):  # a file of another kind under such a name, as tiktoken's
        return tokenizer, None
    if not _same_entries(tokenizer, processor):
        return tokenizer, None
    wrong = differing_texts(tokenizer, processor)
    if not wrong:
        return tokenizer, None
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
        if other is None or differing_texts(other, processor):
            continue
        same_around = tokenizer("")["input_ids"] == other("")["input_ids"]
        if same_around and tokenizer.get_vocab() == other.get_vocab():
            return other, f"{fault}; taken instead: {kind}"
    return tokenizer, f"{fault}, and no other could be made that does not"


def _same_entries(tokenizer: "PreTrainedTokenizerBase", processor: Any) -> bool:
    vocabulary = tokenizer.get_vocab()
    special = (processor.is_control, processor.is_unknown, processor.is_unused, processor.is_byte)
    return all(
        any(is_kind(index) for is_kind in special) or vocabulary.get(processor.id_to_piece(index)) == index
        for index in range(processor.get_piece_size())
    )


def differing_texts(tokenizer: "PreTrainedTokenizerBase", processor: Any) -> list[str]:
    """The test texts that `tokenizer` splits differently from a SentencePieceProcessor."""
    texts = (*PROBES, _words(processor))
    return [text for text in texts if tokenizer(text, add_special_tokens=False)["input_ids"] != processor.encode(text)]


def _words(processor: Any) -> str:
    """A text of words that are entries: with merges in a wrong order, some of them are split."""
    pieces = (processor.id_to_piece(index) for index in range(processor.get_piece_size()))
    words = [piece[1:] for piece in pieces if piece[0] == "▁" and piece[1:].isalpha()]
    return " ".join(words[:: max(1, len(words) // _WORDS)])


def _loaded(
    tokenizer: "PreTrainedTokenizerBase",
    files: SentencePieceFiles,
    folder: Path,
    fill: Callable[[SentencePieceFiles, Path], str | None],
) -> "PreTrainedTokenizerBase | None":
    """A tokenizer with the settings of `tokenizer` (chat template, added tokens ...) and another core."""
    import transformers

    tokenizer.save_pretrained(folder)
    kind = fill(files, folder)
    if kind is None:
        return None
    settings = folder / "tokenizer_config.json"
    fields = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": kind}
    around: dict[str, str] = {}
    if kind == "SentencePieceBackend":
        first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        patterns = {(first,): "bos", (last,): "eos", (first, last): "bos_eos"}
        around = {"special_tokens_pattern": patterns.get(tuple(tokenizer("")["input_ids"]), "none")}
        fields |= around | {"backend": "sentencepiece", "legacy": True}
    settings.write_text(json.dumps(fields), encoding="utf-8")
    try:
        loaded: PreTrainedTokenizerBase = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except Exception:  # the class does not accept such a core: the next kind is tried
        return None
    loaded.init_kwargs |= around  # else the special tokens around a text would not be saved
    loaded.name_or_path = tokenizer.name_or_path
    return loaded


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
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    place = folder / "tokenizer.json"
    if not place.is_file():
        return None
    extractor = SentencePieceExtractor(str(files.model))
    spec, core = extractor.proto.normalizer_spec, Tokenizer(_model(extractor))
    # SentencePiece replaces characters, then spaces
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        back.append(decoders.Strip(" ", 1, 0))
        if files.legacy or spec.remove_extra_whitespaces:
            steps.append(normalizers.Prepend(" "))
        else:  # a space before the first piece alone; a second Metaspace, as the first would not double a space
            kinds = ((" ", "first"), ("▁", "never"))
            spaces = [pre_tokenizers.Metaspace(space, prepend_scheme=when, split=False) for space, when in kinds]
            core.pre_tokenizer = pre_tokenizers.Sequence(spaces)
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(back)
    made, fields = json.loads(core.to_str()), json.loads(place.read_text(encoding="utf-8"))
    fields |= {part: made[part] for part in ("model", "normalizer", "pre_tokenizer", "decoder")}
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
