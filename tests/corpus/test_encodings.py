"""Text in other encodings than UTF-8: what is read is what Python itself decodes, and what `auto` decides is reported."""

import codecs
import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import web_server
from inheritune.corpus import prepare
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.data import open_prepared
from inheritune.errors import InputError
from inheritune.recipe import Source

WESTERN = ["Der Müller mahlt süßes Korn.", "Où est le café? Ça va.", "señor “Ñandú” — 5 €", "plain words", "x" * 3000]
PASSAGES = {
    "cp1252": "Les élèves étudiaient à la bibliothèque où l’été paraissait très long.\nIl a été reçu à l’école où sa mère enseignait le français.\n",
    "cp1251": "Маленькая модель сохраняет часть слоёв большой модели.\nОна снова учится тому, что потеряла.\n",
    "koi8-r": "Маленькая модель сохраняет часть слоёв большой модели.\nОна снова учится тому, что потеряла.\n",
    "iso8859-2": "Mały model zachowuje część warstw dużego modelu.\nŻółw śpi, a źrebię pije wodę i je świeżą trawę.\n",
    "cp1250": "Mały model zachowuje część warstw dużego modelu.\nŻółw śpi, a źrebię pije wodę i je świeżą trawę.\n",
    "cp1253": "Το μικρό μοντέλο κρατά μερικά από τα στρώματα του μεγάλου.\nΜαθαίνει ξανά ό,τι έχασε.\n",
    "shift_jis": "小さなモデルは大きなモデルの層をいくつか受け継ぎます。\nそして失ったものをもう一度学びます。\n",
    "euc-jp": "小さなモデルは大きなモデルの層をいくつか受け継ぎます。\nそして失ったものをもう一度学びます。\n",
    "gb18030": "小模型保留了大模型的一部分层。\n然后它重新学习失去的东西，直到损失相同为止。\n",
    "big5": "小模型保留了大模型的一部分層。\n然後它重新學習失去的東西，直到損失相同為止。\n",
    "cp949": "작은 모델은 큰 모델의 일부 층을 물려받습니다.\n그리고 잃어버린 것을 다시 배웁니다.\n",
}


def never(place: str, reason: str) -> None:
    raise AssertionError(f"{place}: {reason}")


def texts(path: Any, skipped: Any = never, guessed: Any = lambda encoding: None, **source: Any) -> list[str]:
    made = Source.model_validate({"path": str(path), **source})
    found = list_inputs([made], 64)  # ranges of 64 bytes, where there are ranges
    return [text.text for one in found for text in read(one, made, skipped, seed=1, guessed=guessed)]


def guess_of(path: Path) -> str:
    found: list[str] = []
    texts(path, lambda place, reason: None, found.append, encoding="auto", on_error="skip")
    return found[0]


def refusal(path: Any, **source: Any) -> str:
    with pytest.raises(InputError) as error:
        texts(path, **source)
    return str(error.value)


def table(of: list[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], *([str(i), text] for i, text in enumerate(of))])
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)


PACK = {"": bytes, ".gz": gzip.compress, ".dz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp500"])
def test_each_format_in_a_declared_encoding(tmp_path: Path, packed: str, encoding: str) -> None:
    of = [text.encode(encoding, "ignore").decode(encoding) for text in WESTERN]
    whole = "".join(of)
    for name, content, expected, rule in (
        ("a.txt", whole, [whole], {}),
        ("a.md", "\n".join(of), [text + "\n" for text in of[:-1]] + of[-1:], {"document": "line"}),
        ("a.rst", "\r\n\r\n".join(of), [text + "\r\n" for text in of[:-1]] + of[-1:], {"document": "blank line"}),
        ("a.jsonl", "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in of), of, {}),
        ("a.csv", table(of), of, {}),
        ("b.txt", whole, [whole[at : at + 7] for at in range(0, len(whole), 7)], {"document": "7 characters"}),
        ("a.py", f"# coding: {encoding}\nt = '{of[0] * 9}'\n", [of[0] * 9], {"document": "string literal"}),
    ):
        file = tmp_path / (name + packed)
        file.write_bytes(PACK[packed](content.encode(encoding)))
        found = texts(file, encoding=encoding, **rule)
        assert "".join(found) == "".join(expected)
        if rule.get("document") != "7 characters":  # those end at white space
            assert found == expected


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("width", ["utf-16", "utf-32"])
@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("text", ["plain words\n", PASSAGES["gb18030"], PASSAGES["cp1251"] + "😀"])
def test_utf_16_with_and_without_its_mark(tmp_path: Path, order: str, width: str, mark: bool, text: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes((("\ufeff" if mark else "") + text).encode(f"{width}-{order}"))
    for encoding in (width, f"{width}-{order}", "auto"):
        assert texts(file, encoding=encoding) == [text]
    assert guess_of(file) == f"{width}-{order}"


def test_a_control_character_does_not_hide_utf_16(tmp_path: Path) -> None:
    text = "plain words, \x01 and a form\x0c\n" * 3 + PASSAGES["cp1252"] * 3
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        (tmp_path / "a.txt").write_bytes(text.encode(encoding))
        assert guess_of(tmp_path / "a.txt") == encoding


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "<f4", "<f8"])
def test_numbers_are_not_utf_16(tmp_path: Path, dtype: str) -> None:
    numbers = np.random.default_rng(1).normal(0, 40, 5000).astype(dtype)
    (tmp_path / "a.txt").write_bytes(numbers.tobytes())
    assert "binary file" in refusal(tmp_path / "a.txt", encoding="auto")


def test_order_of_bytes_that_nothing_tells(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一乙".encode("utf-16-le"))
    assert "set the source's `encoding: utf-16-le` or `utf-16-be`" in refusal(tmp_path / "a.txt", encoding="utf-16")
    assert texts(tmp_path / "a.txt", encoding="utf-16-le") == ["一乙"]


@pytest.mark.parametrize("encoding", PASSAGES)
def test_what_auto_decides(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(PASSAGES[encoding].encode(encoding))
    assert texts(file, encoding="auto") == [PASSAGES[encoding]]
    file.write_bytes(PASSAGES[encoding].encode())
    assert texts(file, encoding="auto") == [PASSAGES[encoding]]
    assert guess_of(file) == "utf-8"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"\xef\xbb\xbfone\n", "utf-8"),
        (b"only ASCII\n", "utf-8"),
        (b"It\x92s the fa\xe7ade\n", "cp1252"),  # too few bytes to tell languages by
        (b"caf\xe9", "cp1252"),
        (b"caf\xe9 \x81\n", "latin-1"),  # cp1252 has no such byte
        ("café, naïve\n".encode() * 9 + b"\x92\n", "utf-8"),  # broken UTF-8, not something else
        (b"# coding: koi8-r\n# " + "да\n".encode("koi8-r"), "cp1252"),
        (bytes(range(256)), "utf-8"),  # binary: refused as it is
    ],
)
def test_what_auto_decides_of_little(tmp_path: Path, content: bytes, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    if b"coding" in content:  # only Python source code says it of itself
        (tmp_path / "a.py").write_bytes(content)
        assert guess_of(tmp_path / "a.py") == "koi8-r"
        for name in (b"auto", b"nonsense", b"utf-8"):  # of no help
            (tmp_path / "a.py").write_bytes(content.replace(b"koi8-r", name))
            assert guess_of(tmp_path / "a.py") not in ("auto", "utf-8")
    else:
        assert guess_of(tmp_path / "a.txt") == encoding


def test_bytes_far_behind_the_first_megabyte_count(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    text = "plain words\n" * 200_000 + PASSAGES["cp1251"]
    file.write_bytes(text.encode("cp1251"))
    assert texts(file, encoding="auto") == [text]
    generator = random.Random(1)
    sentences = PASSAGES["gb18030"].split("\n")
    text = "".join(generator.choice(sentences) + "\n" * generator.randrange(2) for _ in range(100_000))
    file.write_bytes(text.encode("gb18030"))  # characters of two bytes on both sides of every boundary
    assert texts(file, encoding="auto") == [text]
    assert texts(file, encoding="gb18030") == [text]


@pytest.mark.long
@pytest.mark.parametrize("packed", PACK)
def test_characters_cut_where_blocks_end(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"a.txt{packed}"
    for encoding, shift in (("utf-16-le", "a"), ("shift_jis", "a"), ("utf-16-be", "")):
        text = shift + "層層層\n" * 300_000
        file.write_bytes(PACK[packed](b"x" * (encoding == "shift_jis") + text.encode(encoding)))
        found = texts(file, encoding=encoding, document="line")
        assert "".join(found).removeprefix("x") == text


def test_an_address(tmp_path: Path) -> None:
    body = PASSAGES["cp1252"].encode("cp1252")
    with web_server(lambda method, path, headers: (200, {}, body)) as address:
        for encoding in ("cp1252", "auto"):
            assert texts(f"{address}/a.txt", encoding=encoding) == [PASSAGES["cp1252"]]


@pytest.mark.parametrize(
    ("name", "content", "encoding", "rule", "words"),
    [
        ("a.txt", b"one\ncaf\xe9\n", "utf-8", {}, ["line 2", "not UTF-8 text (byte 0xe9)", "`encoding` (auto"]),
        ("a.txt", b"one\n\x81\n", "cp1252", {}, ["line 2", "not cp1252 text (byte 0x81)", "correct the source's `encoding`"]),
        ("a.txt", b"one\n\x81\n", "cp1252", {"document": "line"}, ["line 2", "not cp1252 text (byte 0x81)"]),
        ("a.txt", b"one\n\n\n\x81\n", "cp1252", {"document": "blank line"}, ["line 4", "not cp1252 text (byte 0x81)"]),
        ("a.txt", b"one\n\x81\n", "cp1252", {"document": "2 characters"}, ["line 2", "not cp1252 text (byte 0x81)"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\x81"}\n', "cp1252", {}, ["line 2", "not cp1252 text (byte 0x81)"]),
        ("a.csv", b"text\na\n\x81\n", "cp1252", {}, ["line 3", "not cp1252 text (byte 0x81)"]),
        ("a.py", b"one = 1\n'\x81'\n", "cp1252", {"document": "string literal", "include": ["*.py"]}, ["not cp1252 text (byte 0x81)"]),
        ("a.txt", "one\nänd".encode("utf-16-le") + b"\0", "utf-16-le", {}, ["line 2", "not UTF-16-LE text"]),
        ("a.txt", "one\n\ud800 two".encode("utf-16-le", "surrogatepass"), "utf-16-le", {}, ["line 2", "not UTF-16-LE text"]),
        ("a.txt", "one\n".encode("utf-16"), "utf-8", {}, ["UTF-16 text", "`encoding: utf-16`"]),
        ("a.txt", "one\n".encode("utf-16-le"), "utf-8", {}, ["binary file", "if it is UTF-16 text, set the source's `encoding: auto`"]),
        ("a.txt", "one\n".encode("utf-16"), "latin-1", {}, ["begins with the byte order mark of UTF-16-LE", "`encoding: utf-16-le`"]),
        ("a.txt", "one\n".encode("utf-8-sig"), "cp1252", {}, ["begins with the byte order mark of UTF-8", "`encoding: utf-8`"]),
        ("a.txt", b"\xfe\xff\0o", "utf-16-le", {}, ["byte order mark of UTF-16-BE"]),
        ("a.txt", "é\né\n".encode() + b"\xe9\n", "auto", {}, ["line 3", "not UTF-8 text (byte 0xe9), as most of the file is", "name its encoding"]),
        ("a.dict", gzip.compress(b"text", mtime=1), "auto", {}, ["gzip data; give the file a name that ends in .gz"]),
        ("a.txt", b"BZh9\0", "utf-8", {}, ["bzip2 data; unpack it with `bunzip2`"]),
        ("a.txt", bytes(range(256)), "auto", {}, ["binary file", "NUL bytes); exclude it, or"]),
    ],
)  # fmt: skip
def test_wrong_bytes(
    tmp_path: Path, name: str, content: bytes, encoding: str, rule: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    line = refusal(tmp_path / name, encoding=encoding, **rule)
    for part in [str(tmp_path / name), *words, "on_error: skip"]:
        assert part in line
    if (not encoding.startswith("utf-16") and "finds it out" in line) or "`encoding: auto`" in line:  # the remedy works
        texts(tmp_path / name, encoding="auto", **rule)


def test_wrong_bytes_passed_over_count_once_each(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one \x81 two\nthree\n\x8d\n" + "é\n".encode("cp1252"))
    for rule, expected in (("line", ["three\n", "é\n"]), ("100 characters", ["\né\n"])):
        met: dict[str, str] = {}
        found = texts(tmp_path / "a.txt", met.setdefault, encoding="cp1252", on_error="skip", document=rule)
        assert [*map(str.strip, found)] == [*map(str.strip, expected)]
        assert [*met] == [f"{tmp_path / 'a.txt'}: line {line}" for line in (1, 3)]


@pytest.mark.parametrize(
    ("given", "stored"),
    [("latin1", "latin-1"), ("ISO-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("UTF8", "utf-8"), ("utf-8-sig", "utf-8"), ("UTF-16LE", "utf-16-le"), ("auto", "auto")],
)  # fmt: skip
def test_names(given: str, stored: str) -> None:
    assert Source(path="a", encoding=given).encoding == stored


@pytest.mark.parametrize(
    "given", ["latin_9000", "hex", "rot13", "idna", "unicode_escape", "undefined", "", "a\0b", "cp125"]
)
def test_names_of_nothing(given: str) -> None:
    with pytest.raises(ValueError, match="legal are auto, utf-8, latin-1"):
        Source(path="a", encoding=given)


def test_tables_have_no_encoding(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["é"]}), tmp_path / "a.parquet")
    assert "remove `encoding`" in refusal(tmp_path, encoding="cp1252")
    assert texts(tmp_path, encoding="auto") == ["é"]
    (tmp_path / "b.txt").write_bytes(b"\xe9")
    assert texts(tmp_path, encoding="cp1252") == ["é", "é"]
    with pytest.raises(ValueError, match="encoding goes with path, not with dataset"):
        Source(dataset="a", encoding="cp1252")


def test_guesses_are_in_the_manifest_and_on_the_terminal(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    for number in range(30):
        encoding = ("utf-8", "cp1252", "utf-16")[number % 3]
        (tmp_path / "in" / f"{number:02d}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number:02d}.txt").write_bytes(f"Nummer {number} für Müller.\n".encode(encoding))
    source = {"path": str(tmp_path / "in")}
    with pytest.raises(InputError, match=r"encoding` \(auto finds it out\)"):
        prepare({"sources": [source], "validation": "50 tokens"}, tokenizer, tmp_path / "out")
    data = {"sources": [source | {"encoding": "auto"}], "validation": "50 tokens"}
    found = prepare(data, tokenizer, tmp_path / "out").manifest["sources"][0]
    assert found["encodings"] == {"cp1252": 10, "utf-16-le": 10, "utf-8": 10}
    assert found["guessed"][0] == {"file": str(tmp_path / "in" / "01.txt"), "encoding": "cp1252"}
    assert len(found["guessed"]) == 20
    assert any("10 in cp1252, 10 in utf-16-le, 10 in utf-8; not UTF-8: " in line for line in caplog.messages)
    # The same documents, and so the same tokens, as when all were UTF-8.
    for number in range(30):
        (tmp_path / "in" / f"{number:02d}.txt").write_bytes(f"Nummer {number} für Müller.\n".encode())
    prepare({"sources": [source], "validation": "50 tokens"}, tokenizer, tmp_path / "plain")
    for split in ("train", "validation"):
        first, second = (open_prepared(tmp_path / name).tokens(split).read() for name in ("out", "plain"))
        assert first.tolist() == second.tolist()


def test_another_encoding_is_another_text(tmp_path: Path, tokenizer: Any) -> None:
    """What an interrupted preparation has read in one encoding does not serve another."""
    (tmp_path / "in").mkdir()
    for number in range(9):
        (tmp_path / "in" / f"{number}.txt").write_bytes(f"{number} f\xfcr M\xfcller".encode("latin-1"))
    found = {}
    for encoding in ("latin-1", "cp437"):
        data = {"sources": [{"path": str(tmp_path / "in"), "encoding": encoding}], "size": "1M tokens", "validation": "20 tokens"}  # fmt: skip
        with pytest.raises(InputError, match="tokens asked for"):
            prepare(data, tokenizer, tmp_path / "out")  # what it has read stays for the next one
        prepared = prepare(data | {"size": None}, tokenizer, tmp_path / "out")
        found[encoding] = tokenizer.decode(prepared.tokens("train").read())
        prepared.folder.rename(tmp_path / encoding)
    assert "für Müller" in found["latin-1"]
    assert "fⁿr Mⁿller" in found["cp437"]


@pytest.mark.long
def test_memory_and_marks_of_long_lines(tmp_path: Path) -> None:
    """A file without line ends of several megabytes, decided and read a block at a time."""
    text = "süß " * 1_000_000
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le"))
    assert "".join(texts(tmp_path / "a.txt", encoding="auto", document="2K characters")) == text
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert "".join(texts(tmp_path / "a.txt", encoding="auto", document="2K characters")) == text
