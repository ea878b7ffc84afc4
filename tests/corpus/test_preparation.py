import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pieces import completed

from conftest import make_text
from inheritune.corpus import prepare
from inheritune.data import check_tokenizer, open_prepared, train_tokenizer
from inheritune.errors import InputError
from inheritune.recipe import NewTokenizer


def documents_of(tokens: Any, eos: int) -> list[tuple[int, ...]]:
    """The documents of a token file, split at end-of-text."""
    ends = np.flatnonzero(np.asarray(tokens) == eos)
    starts = [0, *(ends[:-1] + 1)]
    return [tuple(int(t) for t in tokens[start:end]) for start, end in zip(starts, ends, strict=True)]


def request(*paths: Path, **more: Any) -> dict[str, Any]:
    return {"sources": [{"path": str(path)} for path in paths], "validation": "500 tokens", **more}


def test_every_document_is_in_one_of_the_two_files_once(tokenizer: Any, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", words=20)  # so short that no document is cut
    prepared = prepare(request(text, validation="1600 tokens"), tokenizer, tmp_path / "data")
    expected = Counter(
        tuple(tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"])
        for file in text.iterdir()
    )
    train = documents_of(prepared.tokens("train").read(), tokenizer.eos_token_id)
    validation = documents_of(prepared.tokens("validation").read(), tokenizer.eos_token_id)
    assert Counter(train + validation) == expected
    assert prepared.manifest["tokens"]["validation"] >= 1600
    assert prepared.manifest["tokens"]["validation"] - len(validation[-1]) - 1 < 1600  # no more than needed


def test_size_is_exact_and_validation_stays_when_it_changes(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    whole = prepare(request(text), tokenizer, tmp_path / "whole")
    for size in (777, 1500):
        part = prepare(request(text, size=f"{size} tokens"), tokenizer, tmp_path / str(size))
        assert len(part.tokens("train")) == size
        assert part.tokens("validation").read().tolist() == whole.tokens("validation").read().tolist()
        assert part.tokens("train").read().tolist() == whole.tokens("train").read()[:size].tolist()


def test_the_seed_draws_other_documents_from_the_whole_corpus(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    one, two = (prepare(request(text, size="900 tokens"), tokenizer, tmp_path / str(s), seed=s) for s in (1, 2))
    assert one.tokens("train").read().tolist() != two.tokens("train").read().tolist()
    assert one.tokens("validation").read().tolist() == two.tokens("validation").read().tolist()


def test_a_copy_of_a_validation_document_is_kept_out_of_training(tokenizer: Any, tmp_path: Path) -> None:
    text, copies = make_text(tmp_path / "text", words=20), tmp_path / "copies"
    shutil.copytree(text, copies / "a")
    shutil.copytree(text, copies / "b")
    prepared = prepare(request(copies, validation="1600 tokens"), tokenizer, tmp_path / "data")
    train = set(documents_of(prepared.tokens("train").read(), tokenizer.eos_token_id))
    validation = documents_of(prepared.tokens("validation").read(), tokenizer.eos_token_id)
    assert not train & set(validation)
    assert len(set(validation)) == len(validation)


def test_links_to_a_file_count_once(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "links").symlink_to(text, target_is_directory=True)
    tree = {"sources": [{"path": str(tmp_path / "lin*")}, {"path": str(text)}], "validation": "500 tokens"}
    linked = prepare({**tree, "sources": tree["sources"][:1]}, tokenizer, tmp_path / "data")
    assert linked.manifest["documents"]["found"] == len(list(text.iterdir()))


def test_weights_share_out_the_size(tokenizer: Any, tmp_path: Path) -> None:
    one, two = make_text(tmp_path / "one"), make_text(tmp_path / "two", words=100)
    sources = [{"path": str(one), "name": "one", "weight": 3}, {"path": str(two), "name": "two", "weight": 1}]
    prepared = prepare(
        {"sources": sources, "size": "1001 tokens", "validation": "300 tokens"}, tokenizer, tmp_path / "data"
    )
    assert [source["train_tokens"] for source in prepared.manifest["sources"]] == [751, 250]
    assert len(prepared.tokens("train")) == 1001


def test_a_new_tokenizer_has_the_asked_size_and_travels(text: Path, tmp_path: Path) -> None:
    prepared = prepare(request(text), NewTokenizer(vocabulary=290), tmp_path / "data")
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(prepared.tokenizer_folder)
    assert len(loaded) == 290
    check_tokenizer(prepared, loaded, "here")
    assert loaded.decode(loaded("naïve – 東京\n\tx")["input_ids"]) == "naïve – 東京\n\tx"


def test_the_same_bytes_every_time(text: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        prepare(request(text), NewTokenizer(vocabulary=290), folder)
    for name in ("train-00000.bin", "validation-00000.bin", "tokenizer/tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_records_lines_blocks_and_string_literals(tokenizer: Any, tmp_path: Path) -> None:
    def check(expected: list[str], name: str, content: str, **rule: str) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        tree = {"sources": [{"path": str(tmp_path / name), **rule}], "validation": "1 tokens"}
        data = prepare(tree, tokenizer, tmp_path / f"{name}-{rule.get('document')}")
        train, validation = (
            [tokenizer.decode(row) for row in documents_of(data.tokens(split).read(), tokenizer.eos_token_id)]
            for split in ("train", "validation")
        )
        assert len(validation) == 1
        assert sorted(train + completed(validation, [text for text in expected if text not in train])) == expected

    records = "\n".join(json.dumps({"text": word, "n": 1}) for word in ("alpha", "beta", "gamma")) + "\n\n"
    check(["alpha", "beta", "gamma"], "r.jsonl", records)
    check(["alpha", "beta", "gamma"], "k.jsonl", records.replace("text", "body"), text_key="body")
    check(["one\n", "three", "two\n"], "l.txt", "one\n\ntwo\nthree", document="line")
    check(["a\nb\n", "c\n", "d"], "b.txt", "a\nb\n\n\nc\n \nd", document="blank line")
    long = "x y " * 60
    literals = f"t = {{'a': {long!r}, 'b': {long + 'z'!r}}}\nu = 'short'"
    check([long, long + "z"], "s.py", literals, document="string literal")
    check(["alpha", "beta", "gamma"], "w.jsonl", "\ufeff" + records)  # a byte order mark is no text


@pytest.mark.parametrize(
    ("name", "content", "source", "words"),
    [
        ("a.txt", b"", {}, "every file is empty"),
        ("a.txt", b" \n\n ", {}, "every file is empty"),
        ("a.txt", b"caf\xe9", {}, "line 1: not UTF-8"),
        ("a.txt", bytes(range(256)), {}, "a binary file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', {}, "line 2: not a JSON record"),
        ("a.jsonl", b'{"body": "a"}\n', {}, "no text under 'text'"),
        ("a.jsonl", b"[1]\n", {}, "line 1: a JSON list, not an object"),
        ("a.html", b"x", {}, "no file there matches"),
        ("a.py", b"def", {"include": ["*.py"], "document": "string literal"}, "not Python"),
        ("a.txt", b"too little", {}, "500 tokens asked for"),
    ],
)
def test_bad_text_is_named(tokenizer: Any, tmp_path: Path, name: str, content: bytes, source: Any, words: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / name).write_bytes(content)
    tree = {"sources": [{"path": str(folder), **source}], "validation": "500 tokens"}
    with pytest.raises(InputError, match=words) as caught:
        prepare(tree, tokenizer, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert {file.name for file in tmp_path.glob(".*")} <= {".data.work"}  # what was done, to go on from


def test_more_than_there_is(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1,000,000 training tokens asked for, there are [0-9,]+ beside"):
        prepare(request(text, size="1M tokens"), tokenizer, tmp_path / "data")
    with pytest.raises(InputError, match="some text besides validation is needed"):
        (tmp_path / "one").mkdir()
        shutil.copy(text / "000.txt", tmp_path / "one")
        prepare({"sources": [{"path": str(tmp_path / "one")}], "validation": "5 tokens"}, tokenizer, tmp_path / "data")


@pytest.mark.parametrize("fault", ["short", "changed", "missing"])
def test_damaged_token_files_are_refused(text: Path, tokenizer: Any, tmp_path: Path, fault: str) -> None:
    prepare(request(text), tokenizer, tmp_path / "data")
    file = tmp_path / "data" / "train-00000.bin"
    content = bytearray(file.read_bytes())
    if fault == "short":
        file.write_bytes(content[:-2])
    elif fault == "changed":
        content[5] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(InputError, match=r"train-00000\.bin.*prepare the data again"):
        open_prepared(tmp_path / "data").verify()


def test_another_tokenizer_is_refused(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    prepared = prepare(request(text), tokenizer, tmp_path / "data")
    other = train_tokenizer(iter(["quite another text " * 50]), 270)
    with pytest.raises(InputError, match="another tokenizer"):
        check_tokenizer(prepared, other, "here")


def test_a_tokenizer_without_end_of_text_is_refused(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    import copy

    mute = copy.deepcopy(tokenizer)
    mute.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        prepare(request(text), mute, tmp_path / "data")


def test_too_large_a_vocabulary_says_what_fits(text: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"yields only \d+ entries, 50000 asked for"):
        prepare(request(text), NewTokenizer(vocabulary=50_000), tmp_path / "data")
