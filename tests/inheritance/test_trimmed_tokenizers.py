"""Tokenizers of every kind with fewer tokens: same split of what is kept, everything spelled, same words around texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import SENTENCE
from inheritune.arch import trim_tokenizer
from inheritune.errors import InputError
from inheritune.inheritance import needed_tokens

OTHER = [
    "a dictionary explains words, one after another: apple, bear, cider and door",
    "def f(x):\n    if x:\n        return  x['a']\n",
    "Größe naïve façade 東京 is a city — 🙂 smile",
    "1234 5678 , . ; : ! ?  double  space   and three",
]
READ = [SENTENCE, "a model learns; a model reads\n\n  twice", SENTENCE.title()]
TRAINING = (READ + OTHER) * 5
KEPT = [*READ, "a xylophonist reads"]
SPECIAL = ["<s>", "</s>", "<unk>", "<|user|>", "<unused0>", "<unused1>", "<|reserved_special_token_7|>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
TEMPLATE = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}<|user|>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}<unused1>"


def wrapped(core: Tokenizer, **fields: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **fields
    )


def around(core: Tokenizer) -> processors.PostProcessor:
    ids = [(word, core.token_to_id(word)) for word in ("<s>", "</s>")]
    return processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids)


def byte_level(ignore_merges: bool = False, **split: Any) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r" ?\w+|\s+|[^\s\w]+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False, **split),
    ]) if ignore_merges else pre_tokenizers.ByteLevel(add_prefix_space=False)  # fmt: skip
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TRAINING, trainer)
    if ignore_merges:  # a word that merges do not lead to, as Llama 3 has some
        fields = json.loads(core.to_str())
        fields["model"]["vocab"]["Ġxylophonist"] = len(fields["model"]["vocab"])
        core = Tokenizer.from_str(json.dumps(fields))
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), around(core)])
    return wrapped(core, chat_template=TEMPLATE, extra_special_tokens=["<|user|>", "<unused1>"])


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Gemma's: the text is one word."""
    core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")  # else the training makes whole sentences
    core.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=560, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    )
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.post_processor = around(core)
    return wrapped(core, chat_template=TEMPLATE)


def with_ends() -> PreTrainedTokenizerFast:
    """As CLIP's: the end of a word is another symbol."""
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    core.train_from_iterator(TRAINING, trainer)
    core.post_processor = processors.RobertaProcessing(
        ("</s>", core.token_to_id("</s>")), ("<s>", core.token_to_id("<s>")), add_prefix_space=False
    )
    return wrapped(core)


def unigram(fallback: bool) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = (
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]) if fallback else decoders.Metaspace()
    )
    special = [*SPECIAL, *(BYTES if fallback else [])]
    trainer = trainers.UnigramTrainer(
        vocab_size=400 if fallback else 170, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(TRAINING, trainer)
    if fallback:
        fields = json.loads(core.to_str())
        fields["model"]["byte_fallback"] = True
        fields["added_tokens"] = [one for one in fields["added_tokens"] if not one["content"].startswith("<0x")]
        core = Tokenizer.from_str(json.dumps(fields))
    core.post_processor = around(core)
    return wrapped(core)


def word_piece() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        TRAINING, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    )
    core.post_processor = processors.BertProcessing(
        ("</s>", core.token_to_id("</s>")), ("<s>", core.token_to_id("<s>"))
    )
    core.enable_padding(pad_id=core.token_to_id("</s>"), pad_token="</s>")
    core.enable_truncation(1000)
    return wrapped(core, pad_token="</s>")


def word_level() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(TRAINING, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return wrapped(core)


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": byte_level,
    "byte level, words first": lambda: byte_level(ignore_merges=True, add_prefix_space=False),
    "byte fallback": byte_fallback,
    "ends of words": with_ends,
    "unigram": lambda: unigram(False),
    "unigram, byte fallback": lambda: unigram(True),
    "word piece": word_piece,
    "words": word_level,
}
SPELLS_ALL = ("byte level", "byte level, words first", "byte fallback", "unigram, byte fallback")
_MADE: dict[str, tuple[Any, tuple[int, ...], Any]] = {}


def made(kind: str) -> tuple[Any, tuple[int, ...], Any]:
    """The whole tokenizer, the tokens that `KEPT` needs, and the tokenizer with these."""
    if kind not in _MADE:
        whole = MAKERS[kind]()
        whole.add_tokens([AddedToken("<table>", special=False)])
        kept = needed_tokens(whole, KEPT)
        _MADE[kind] = whole, kept, trim_tokenizer(whole, kept)
    return _MADE[kind]


def ids(tokenizer: Any, text: str, **how: Any) -> list[int]:
    return list(tokenizer(text, **how)["input_ids"])


@pytest.mark.parametrize("kind", MAKERS)
def test_kept_text_is_split_as_before_also_after_saving(kind: str, tmp_path: Path) -> None:
    whole, kept, trimmed = made(kind)
    assert len(trimmed) == len(kept) < len(whole)
    assert {word: kept[index] for word, index in trimmed.get_vocab().items()}.items() <= whole.get_vocab().items()
    trimmed.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for one in (trimmed, again):
        for text in [*KEPT, f"{KEPT[1]} <table> <|user|> model</s>", ""]:
            assert [kept[index] for index in ids(one, text)] == ids(whole, text)
            pairs = ids(one, text, text_pair=KEPT[0])
            assert [kept[index] for index in pairs] == ids(whole, text, text_pair=KEPT[0])
        assert one.special_tokens_map.items() >= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}.items()
        assert [kept[one.bos_token_id], kept[one.eos_token_id]] == [whole.bos_token_id, whole.eos_token_id]
    assert "<unused0>" not in again.get_vocab()
    assert "<table>" in again.get_vocab()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(list(MAKERS)),
    words=st.lists(st.sampled_from(" ".join(TRAINING[:7]).split(" ")), min_size=1, max_size=12),
    spaces=st.sampled_from([" ", "  ", "\n", ""]),
)
def test_any_text_of_kept_tokens_is_split_as_before(kind: str, words: list[str], spaces: str) -> None:
    whole, kept, trimmed = made(kind)
    text = spaces.join(words)
    before, after = ids(whole, text), ids(trimmed, text)
    if set(before) <= set(kept):
        assert [kept[index] for index in after] == before
    elif kind != "words":
        assert whole.decode([kept[index] for index in after]) == whole.decode(before)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([kind for kind in MAKERS if kind != "words"]),
    text=st.text(max_size=30) | st.text("aelmo▁ 東é🙂\n", max_size=30),
)
def test_whatever_could_be_spelled_can_be_spelled(kind: str, text: str) -> None:
    whole, _, trimmed = made(kind)
    there, here = (one.decode(ids(one, text, add_special_tokens=False)) for one in (whole, trimmed))
    if whole.unk_token_id not in ids(whole, text):
        assert trimmed.unk_token_id not in ids(trimmed, text)
    if there == text or whole.unk_token_id not in ids(whole, text):
        assert here == there


@pytest.mark.parametrize("kind", SPELLS_ALL)
def test_bytes_spell_characters_that_no_token_has(kind: str) -> None:
    whole, _, trimmed = made(kind)
    for text in ("東京 🙂 Ω", "\u0000\u200d", "zebra quartz"):
        assert (
            trimmed.decode(ids(trimmed, text, add_special_tokens=False))
            == whole.decode(ids(whole, text, add_special_tokens=False))
            == text
        )


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_the_chat_template_stays_and_its_words_are_split_as_before(kind: str) -> None:
    whole, kept, trimmed = made(kind)
    turns = [{"role": "user", "content": "a model"}, {"role": "assistant", "content": "learns"}]
    text = whole.apply_chat_template(turns, tokenize=False)
    assert trimmed.apply_chat_template(turns, tokenize=False) == text
    assert text.startswith("<|user|>user: a model</s>")
    assert [kept[index] for index in ids(trimmed, text)] == ids(whole, text)
    assert "<unused1>" in trimmed.get_vocab()  # the template uses it
    assert "<|reserved_special_token_7|>" not in trimmed.get_vocab()


def test_merges_on_the_way_stay() -> None:
    whole, kept, trimmed = made("byte level")
    counted = {index for text in KEPT for index in ids(whole, text)}
    assert set(kept) - counted > set()
    one = json.loads(trimmed.backend_tokenizer.to_str())["model"]
    assert all(left + right in one["vocab"] for left, right in one["merges"])
    assert len(one["merges"]) >= len(one["vocab"]) - 256 - len(SPECIAL)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_size_keeps_the_most_frequent_tokens_and_is_met(kind: str) -> None:
    whole, kept, _ = made(kind)
    least = len(needed_tokens(whole, []))
    with pytest.raises(
        InputError, match=rf"vocabulary: 3 tokens are asked for; legal are {least} .* to {len(whole) - 1}"
    ):
        needed_tokens(whole, KEPT, 3)
    with pytest.raises(InputError, match="legal are"):
        needed_tokens(whole, KEPT, len(whole))
    assert needed_tokens(whole, KEPT, least) == needed_tokens(whole, [])
    middle = (least + len(kept) + 1) // 2
    some = needed_tokens(whole, KEPT, middle)
    assert len(some) == middle
    assert set(some) <= set(kept)
    if len(kept) < len(whole) - 1:
        more = needed_tokens(whole, KEPT, len(kept) + 1)
        assert len(more) == len(kept) + 1
        assert set(more) > set(kept)
    assert len(trim_tokenizer(whole, some)) == middle


def test_tokens_that_a_tokenizer_cannot_do_without_are_named() -> None:
    whole, kept, _ = made("byte level")
    for word, said in (("<s>", "puts <s> around texts"), ("<unk>", "unk_token <unk> is not kept")):
        with pytest.raises(InputError, match=said):
            trim_tokenizer(whole, set(kept) - {whole.get_vocab()[word]})
    padded, its, _ = made("word piece")
    with pytest.raises(InputError, match="token for unknown text <unk>"):
        trim_tokenizer(padded, set(its) - {padded.unk_token_id})


def test_what_cannot_lose_tokens_is_refused_with_the_reason() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(InputError, match=r"ByT5Tokenizer works without a tokenizer\.json"):
        needed_tokens(ByT5Tokenizer(), KEPT)

    class Own(PreTrainedTokenizerFast):
        pass

    with pytest.raises(InputError, match="Own is code of its own"):
        trim_tokenizer(Own(tokenizer_object=byte_level().backend_tokenizer), [0])
