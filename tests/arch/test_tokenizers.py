"""Tokenizers travel as they were trained: SentencePiece itself is the judge of those that come from its files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from conftest import SENTENCE
from inheritune.arch import find_tokenizer, load_tokenizer
from inheritune.arch.tokenization import PROBES
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.recipe import Reference

TEXTS = [
    SENTENCE,
    "Größe naïve façade 東京 is a city",
    "def f(x):\n    return x",
    "1234 5678 , . ; : ! ?  double  space",
]
NASTY = (*PROBES, SENTENCE, "", "  two", "a  b   c", "\n", "\r\n\r\n", "x\ty", "ﬀ ² ㎏", "ب ת", "\u200d👩‍👩‍👧", "1e-5")

# As LLaMA's was trained; a row of KINDS says what is otherwise
LLAMA: dict[str, Any] = {
    "vocab_size": 400, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True,
    "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "minloglevel": 2,
}  # fmt: skip
OPEN_LLAMA = {
    "remove_extra_whitespaces": True,
    "normalization_rule_name": "nmt_nfkc",
    "allow_whitespace_only_pieces": False,
}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": ({}, {}),
    "llama, not legacy": ({}, {"legacy": False}),
    "open llama": (OPEN_LLAMA, {}),
    "open llama, not legacy": (OPEN_LLAMA, {"legacy": False}),
    "no space put before the text": ({"add_dummy_prefix": False}, {}),
    "nfkc": ({"normalization_rule_name": "nfkc"}, {}),
    "unigram": ({"model_type": "unigram", "vocab_size": 318}, {}),
    "unigram for any class": ({"model_type": "unigram", "vocab_size": 318}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "own symbols": ({"user_defined_symbols": ["<|im_start|>", "<x>"]}, {}),
    "spaces behind words": ({"treat_whitespace_as_suffix": True}, {}),
}  # fmt: skip


def train(folder: Path, **settings: Any) -> SentencePieceProcessor:
    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 30), model_prefix=str(folder / "tokenizer"), **(LLAMA | settings)
    )
    (folder / "tokenizer.vocab").unlink()
    LlamaConfig(vocab_size=400).save_pretrained(folder)
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def reorder(folder: Path) -> SentencePieceProcessor:
    """Give the words of a model other numbers, with the scores by which they are merged kept."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    free = [index for index, piece in enumerate(proto.pieces) if piece.type == 1]
    pieces = [
        sentencepiece_model_pb2.ModelProto.SentencePiece.FromString(proto.pieces[at].SerializeToString()) for at in free
    ]
    for index, piece in zip(free, reversed(pieces), strict=True):
        proto.pieces[index].CopyFrom(piece)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def settle(folder: Path, **fields: Any) -> None:
    usual = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(usual | tokens | fields), encoding="utf-8")


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def differing(left: Any, judge: SentencePieceProcessor) -> list[str]:
    return [text for text in NASTY if ids(left, text) != judge.encode(text)]


def travelled(tokenizer: Any, source: Path, folder: Path) -> Any:
    """The tokenizer as plain transformers loads it from a target's folder."""
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    shutil.copy(source / "config.json", folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    settings, fields = KINDS[kind]
    source = tmp_path / "source"
    judge = train(source, **settings)
    settle(source, **fields)
    tokenizer = load_tokenizer(Reference(path=str(source)), log=True)
    assert differing(tokenizer, judge) == []
    plain = AutoTokenizer.from_pretrained(source)
    wrong = differing(plain, judge)
    assert wrong, "transformers is right here; then this kind is no test"
    (line,) = caplog.messages
    assert line.startswith("tokenizer: transformers' ")
    assert "tokenizer.model" in line
    again = travelled(tokenizer, source, tmp_path / "target")
    for text in (*NASTY, "a</s>b", "<s> x </s> y"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again(SENTENCE)["input_ids"][0] == (1 if again("")["input_ids"] else judge.encode(SENTENCE)[0])
    assert again("")["input_ids"] == plain("")["input_ids"]
    assert len(again) == len(plain) == judge.get_piece_size()
    if not settings.get("treat_whitespace_as_suffix"):
        assert all(again.decode(judge.encode(text)) == judge.decode(judge.encode(text)) for text in NASTY)


def test_merges_go_by_score_and_not_by_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise whole words fall to pieces, as OpenLLaMA's did."""
    caplog.set_level("INFO", "inheritune")
    train(tmp_path, allow_whitespace_only_pieces=False)
    settle(tmp_path)
    judge = reorder(tmp_path)
    assert len(ids(AutoTokenizer.from_pretrained(tmp_path), SENTENCE)) > len(judge.encode(SENTENCE))
    tokenizer = load_tokenizer(Reference(path=str(tmp_path)), log=True)
    assert differing(tokenizer, judge) == []
    assert "a fast tokenizer built from that file" in caplog.messages[0]


@pytest.mark.parametrize(("legacy", "after"), [(None, "▁b"), (True, "▁b"), (False, "b")])
def test_special_tokens_inside_a_text(legacy: bool | None, after: str, tmp_path: Path) -> None:
    """What stands behind one gets a space before it, as LLaMA's always did, unless `legacy` is denied."""
    judge = train(tmp_path / "source")
    settle(tmp_path / "source", **({} if legacy is None else {"legacy": legacy}))
    tokenizer = load_tokenizer(Reference(path=str(tmp_path / "source")))
    split = tokenizer.convert_ids_to_tokens(ids(tokenizer, "the</s>b"))
    assert split == [*judge.encode("the", out_type=str), "</s>", after]
    assert tokenizer("the")["input_ids"][0] == tokenizer.bos_token_id == 1


def test_settings_chat_template_and_added_tokens_survive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    judge = train(source, **OPEN_LLAMA)
    added = {str(400 + at): {"content": text, "special": special, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
             for at, (text, special) in enumerate([("<|user|>", True), ("<tool>", False)])}  # fmt: skip
    settle(
        source,
        added_tokens_decoder=added,
        chat_template="{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}",
        model_max_length=77,
        padding_side="left",
        pad_token="</s>",
    )
    again = travelled(load_tokenizer(Reference(path=str(source))), source, tmp_path / "target")
    assert differing(again, judge) == []
    assert again.convert_tokens_to_ids(["<|user|>", "<tool>"]) == [400, 401]
    assert again.convert_ids_to_tokens(ids(again, "a<|user|>b<tool>c")) == ["▁a", "<|user|>", "▁b", "<tool>", "▁c"]
    assert (again.model_max_length, again.padding_side, again.pad_token) == (77, "left", "</s>")
    assert (again.bos_token_id, again.eos_token_id, again.unk_token_id) == (1, 2, 0)
    text = again.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert text == "<|user|>hello"


def test_a_published_tokenizer_json_that_is_right_is_taken_as_it_stands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LLaMA 2's: transformers rebuilds it from its vocabulary, and loses how it treats a space at the start."""
    caplog.set_level("INFO", "inheritune")
    judge = train(tmp_path / "source")
    settle(tmp_path / "source")
    right = load_tokenizer(Reference(path=str(tmp_path / "source")))
    right.save_pretrained(tmp_path / "right")
    shutil.copy(tmp_path / "right" / "tokenizer.json", tmp_path / "source")
    assert differing(AutoTokenizer.from_pretrained(tmp_path / "source"), judge)
    tokenizer = load_tokenizer(Reference(path=str(tmp_path / "source")), log=True)
    assert differing(tokenizer, judge) == []
    assert "the tokenizer.json as published" in caplog.messages[0]


def test_a_model_file_of_other_entries_decides_nothing(
    reference_folder: Path, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a tokenizer was replaced and the older file left behind, or the file is tiktoken's."""
    caplog.set_level("INFO", "inheritune")
    folder = Path(shutil.copytree(reference_folder, tmp_path / "copy"))
    train(tmp_path / "other")
    for content in ((tmp_path / "other" / "tokenizer.model").read_bytes(), b"IQ== 0\nIg== 1\n"):
        (folder / "tokenizer.model").write_bytes(content)
        found = load_tokenizer(Reference(path=str(folder)), log=True)
        assert all(ids(found, text) == ids(tokenizer, text) for text in NASTY)
    assert caplog.messages == []


def only_settings(folder: Path) -> None:
    settle(folder)


def broken_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def broken_model(folder: Path) -> None:
    settle(folder)
    (folder / "tokenizer.model").write_bytes(b"not a model")


@pytest.mark.parametrize("damage", [only_settings, broken_json, broken_model])
def test_no_tokenizer_is_none_and_a_broken_one_an_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    LlamaConfig(vocab_size=400).save_pretrained(tmp_path)
    reference = Reference(path=str(tmp_path))
    assert find_tokenizer(reference) is None
    with pytest.raises(InputError, match=r"no tokenizer files there; give one with reference\.tokenizer"):
        load_tokenizer(reference)
    damage(tmp_path)
    with pytest.raises(InputError, match=r"give one with reference\.tokenizer") as caught:
        find_tokenizer(reference)
    assert "\n" not in str(caught.value)


CODE = """
from transformers import PreTrainedTokenizer


class LettersTokenizer(PreTrainedTokenizer):
    def __init__(self, **kwargs):
        self._entries = {chr(97 + at): at for at in range(26)} | {"?": 26}
        super().__init__(**({"unk_token": "?"} | kwargs))

    @property
    def vocab_size(self):
        return len(self._entries)

    def get_vocab(self):
        return dict(self._entries)

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return self._entries.get(token, 26)

    def _convert_id_to_token(self, index):
        return {at: token for token, at in self._entries.items()}[index]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()
"""


def test_a_tokenizer_with_code_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    LlamaConfig(vocab_size=27).save_pretrained(source)
    (source / "letters.py").write_text(CODE, encoding="utf-8")
    fields = {"tokenizer_class": "LettersTokenizer", "auto_map": {"AutoTokenizer": ["letters.LettersTokenizer", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(InputError, match="switch it on with trust_remote_code"):
        find_tokenizer(Reference(path=str(source)))
    tokenizer = load_tokenizer(Reference(path=str(source), trust_remote_code=True))
    assert ids(tokenizer, "abc!") == [0, 1, 2, 26]
    tokenizer.save_pretrained(tmp_path / "target")
    shutil.copy(source / "config.json", tmp_path / "target")
    again = AutoTokenizer.from_pretrained(tmp_path / "target", trust_remote_code=True)
    assert ids(again, "abc!") == [0, 1, 2, 26]


def test_inherit_writes_the_right_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """From the command line, as for OpenLLaMA; what was written needs no correction again, its model file beside it."""
    caplog.set_level("INFO", "inheritune")
    source, target = tmp_path / "source", tmp_path / "target"
    config = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(source)
    judge = train(source, **OPEN_LLAMA)
    config.save_pretrained(source)
    settle(source)
    assert main(["inherit", str(source), str(target), "--layers", "1"]) == 0
    said = capsys.readouterr()
    assert "taken instead: a fast tokenizer built from that file" in said.err
    assert "tokenizer" not in said.out
    assert differing(AutoTokenizer.from_pretrained(target), judge) == []
    assert "local_files_only" not in (target / "tokenizer_config.json").read_text(encoding="utf-8")
    shutil.copy(source / "tokenizer.model", target)
    caplog.clear()
    assert differing(load_tokenizer(Reference(path=str(target)), log=True), judge) == []
    assert caplog.messages == []
