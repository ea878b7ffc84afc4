"""Text and tokens that will not do, from end to end: status 2, one line with place and remedy, nothing left behind."""

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import make_text, tiny_recipe
from inheritune.cli import main
from inheritune.corpus import prepare
from inheritune.data import open_prepared
from processes import program

Data = dict[str, Any]
Change = Callable[[Path, Data], list[str]]


def names(place: Path) -> list[str]:
    """All there is, as far as it could be taken for something: what is worked on in hidden folders could not."""
    return sorted(str(file.relative_to(place)) for file in place.iterdir() if not file.name.startswith("."))


def one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "; " in lines[0], "no remedy"


def given(words: list[str], **data: Any) -> Change:
    """Keys of `data` set; PLACE in a value stands for the test's folder."""

    def change(place: Path, tree: Data) -> list[str]:
        tree.update(json.loads(json.dumps(data).replace("PLACE", str(place))))
        return words

    return change


def file(name: str, content: bytes, words: list[str], **source: Any) -> Change:
    """A source that is a folder with one file; the words must stand behind its path."""

    def change(place: Path, tree: Data) -> list[str]:
        (place / "in").mkdir()
        (place / "in" / name).write_bytes(content)
        tree["sources"] = [{"path": str(place / "in"), **source}]
        return [str(place / "in"), *words]

    return change


def two(words: list[str], first: Data, second: Data, **data: Any) -> Change:
    """Two sources: the text, and three short documents of some hundred tokens."""

    def change(place: Path, tree: Data) -> list[str]:
        small = make_text(place / "small", 3, 40)
        tree["sources"] = [tree["sources"][0] | first, {"path": str(small)} | second]
        tree.update(data)
        return words

    return change


def twice(place: Path) -> list[str]:
    place.write_bytes(place.read_bytes() * 2)
    return []


LINES = b"".join(json.dumps({"text": f"{n} {n * n} {n**3}"}).encode() + b"\n" for n in range(3000))
FILTERED = {"filter": "length", "min_characters": 10**6}

TEXTS: dict[str, Change] = {
    "no such file": given(["data.sources: PLACE/no", "no such file or folder", "correct the path"], sources=[{"path": "PLACE/no"}]),
    "empty file": file("a.txt", b"", ["every file is empty", "give files with text"]),
    "white file": file("a.txt", b" \n\t\n", ["every file is empty", "give files with text"]),
    "no file of the kind": file("a.html", b"text", ["no file there matches include", "set `include`"]),
    "binary file": file("a.txt", bytes(range(256)), ["a.txt", "binary file"]),
    "broken UTF-8": file("a.txt", b"one\ncaf\xe9\n", ["a.txt", "line 2", "not UTF-8"]),
    "broken JSON": file("a.jsonl", LINES + b'{"text": \n', ["a.jsonl", "line 3001: not a JSON record (", ": character 11)", "on_error: skip"]),
    "no text key": file("a.jsonl", b'{"body": "a"}\n', ["a.jsonl", "line 1", "no text under 'text'", "text_key"]),
    "cut .gz": file("a.jsonl.gz", gzip.compress(LINES)[:-9], ["a.jsonl.gz", "cut short", "fetch the file again"]),
    "cut .parquet": file("a.parquet", b"PAR1 and no more", ["a.parquet", "not a whole .parquet file"]),
    "budget larger than the corpus": given(
        ["data.size", "1,000,000 training tokens asked for, there are ", "data.size of ", " tokens would fit"], size="1M tokens"
    ),
    "source too short for its weight": two(
        ["data.sources: ", "small", "4,500 training tokens asked for, there are ", "would fit"],
        {"weight": 1}, {"weight": 9}, size="5K tokens",
    ),
    "source whose limit is too low": given(
        ["data", "the limits of the sources allow 1,000 tokens", "raise the limits"],
        sources=[{"path": "TEXT", "limit": "1K tokens"}], size="2K tokens",
    ),
    "validation larger than the corpus": given(
        ["data.validation", "1,000,000 tokens asked for, the text has ", "a smaller validation"], validation="1M tokens"
    ),
    "validation that leaves nothing": lambda place, tree: [
        *file("a.txt", b"one document of many words " * 300, [])(place, tree)[1:],
        "some text besides validation is needed, there are 0 tokens of it", "or shorter documents (`document: 4K characters`",
    ],
    "validation shorter than a sequence": given(
        ["data.validation: 10 tokens are less than a sequence (16)", "give '17 tokens' or more"], validation="10 tokens"
    ),
    "training text that is all in validation": lambda place, tree: [
        *file("a.jsonl", json.dumps({"text": "one document of many words " * 300}).encode() + b"\n", [])(place, tree)[1:],
        *twice(place / "in" / "a.jsonl"), "there are 0 tokens of it",
    ],
    "filters that leave nothing": given(["data"], filters=[FILTERED]),
    "unknown filter": given(["data.filters.0", "'gofer'", "legal are c4, classifier"], filters=["gofer"]),
    "near miss of a filter": given(["data.filters.0", "did you mean gopher_quality?"], filters=["gopher_qualty"]),
    "option of a filter": given(
        ["unknown key 'data.filters.0.min_word'", "did you mean 'min_words'?"], filters=[{"filter": "gopher_quality", "min_word": 3}]
    ),
    "filter without its model": given(["data.filters.0.model' is missing"], filters=[{"filter": "classifier", "keep": {"a": 0.5}}]),
    "filter whose model is not there": given(
        ["data.filters.0.model: PLACE/no.bin", "No such file", "give the path"], filters=[{"filter": "classifier", "keep": {"a": 0.5}, "model": "PLACE/no.bin"}]
    ),
    "filter whose words are not there": given(["PLACE/no.txt"], filters=[{"filter": "c4", "bad_words": "PLACE/no.txt"}]),
    "filter that is no model": given(
        ["recipe.yaml"], filters=[{"filter": "language", "model": "PLACE/recipe.yaml"}]
    ),
    "filters in an order that cannot be": given(
        ["data.filters", "length comes after exact_duplicates"], filters=["exact_duplicates", {"filter": "length", "max_words": 9}]
    ),
    "two sources of one name": two(
        ["data", "two sources have the same name", "give each its own `name`"], {"name": "a"}, {"name": "a"}
    ),
    "weight for one of two": two(["every source a weight"], {"weight": 1}, {}, size="500 tokens"),
    "weight below zero": two(["data.sources.1.weight", "got -1", "greater than 0"], {"weight": 1}, {"weight": -1}, size="500 tokens"),
    "document rule": given(["data.sources.0.document", "blank line"], sources=[{"path": "TEXT", "document": "pages"}]),
    "slurm without its settings": given(["slurm: executor slurm needs", "partition"], executor="slurm"),
    "slurm without a partition": given(["'data.slurm.partition' is missing"], executor="slurm", slurm={"time": "1:00:00"}),
    "settings of slurm for nobody": given(["slurm: these settings belong to executor slurm, it is local"], slurm={"partition": "a", "time": "1"}),
    "slurm that is no mapping": given(["data.slurm: got 'cpu': not a mapping", "partition"], executor="slurm", slurm="cpu"),
    "tokens and sources": given(["sources and tokens given", "give either"], tokens={"train": ["a.bin"], "validation": ["b.bin"]}),
    "no origin": lambda place, tree: [tree.pop("sources") and "data: no text given", "give either sources"],
}  # fmt: skip


def run(place: Path, tree: dict[str, Any], write_recipe: Any) -> int:
    return main(["run", str(write_recipe(tree)), "--out", str(place / "out"), "--quiet"])


@pytest.mark.parametrize("case", TEXTS)
def test_text(
    case: str, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny_recipe(text, reference_folder)
    words = [word.replace("PLACE", str(tmp_path)) for word in TEXTS[case](tmp_path, tree["data"])]
    for source in tree["data"].get("sources", []):
        source["path"] = source["path"].replace("TEXT", str(text))
    assert run(tmp_path, tree, write_recipe) == 2
    one_line(capsys, words)
    assert not (tmp_path / "out" / "data").exists()
    assert not (tmp_path / "out" / "summary.json").exists()


TOKENIZER = "tokenizer_config.json"


def without_end_of_text(place: Path) -> None:
    file = place / TOKENIZER
    said = json.loads(file.read_text())
    del said["eos_token"]
    file.write_text(json.dumps(said))


@pytest.fixture(scope="session")
def made(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data; tests change copies of it."""
    request = {"sources": [{"path": str(text)}], "validation": "600 tokens", "size": "3K tokens"}
    return prepare(request, tokenizer, tmp_path_factory.mktemp("prepared") / "data").folder


def prepared(change: Callable[[Path], object], words: list[str]) -> Change:
    """data.prepared is a folder in which something was changed."""

    def changed(place: Path, tree: Data) -> list[str]:
        shutil.copytree(tree.pop("made"), place / "made")
        tree.clear()
        tree["prepared"] = str(place / "made")
        change(place / "made")
        return words

    return changed


def tokens(train: np.ndarray[Any, Any] | bytes, words: list[str], name: str = "a.bin", metadata: str = "") -> Change:
    """data.tokens with one file each for training and validation."""

    def changed(place: Path, tree: Data) -> list[str]:
        (place / name).write_bytes(train if isinstance(train, bytes) else train.tobytes())
        if metadata:
            (place / f"{name}.metadata").write_text(metadata)
        np.arange(300, dtype=np.uint16).tofile(place / "val.bin")
        tree.clear()
        tree["tokens"] = {"train": [str(place / name)], "validation": [str(place / "val.bin")]}
        return words

    return changed


def overwritten(name: str, at: int, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as opened:
            opened.seek(at)
            opened.write(content)

    return change


def manifest(**changed: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        said = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(said | changed))

    return change


def drop(folder: Path, key: str) -> None:
    said = json.loads((folder / "manifest.json").read_text())
    del said[key]
    (folder / "manifest.json").write_text(json.dumps(said))


TRAIN = "train-00000.bin"
ROW = np.arange(3000, dtype=np.uint16) % 300
TOKENS: dict[str, Change] = {
    "no such folder": given(["no prepared data there", "`inheritune prepare`"], prepared="PLACE/no", sources=[]),
    "a folder of something else": given(["no prepared data there (no manifest.json)"], prepared="PLACE", sources=[]),
    "changed shard": prepared(overwritten(TRAIN, 9, b"\5\0\5"), [f"made/{TRAIN}: changed since it was written", "prepare the data again"]),
    "truncated shard": prepared(lambda folder: os.truncate(folder / TRAIN, 5998), [f"{TRAIN}: has 5998 bytes, the manifest has 6000"]),
    "missing shard": prepared(lambda folder: (folder / TRAIN).unlink(), [f"made/{TRAIN}: missing", "prepare the data again"]),
    "missing manifest": prepared(lambda folder: (folder / "manifest.json").unlink(), ["made: no prepared data there"]),
    "damaged manifest": prepared(lambda folder: (folder / "manifest.json").write_text('{"format": 2, '), ["manifest.json: damaged"]),
    "empty manifest": prepared(lambda folder: (folder / "manifest.json").write_text(""), ["manifest.json: damaged"]),
    "manifest that is a list": prepared(lambda folder: (folder / "manifest.json").write_text("[]"), ["manifest.json: damaged"]),
    "manifest of another kind": prepared(lambda folder: (folder / "manifest.json").write_text("{}"), ["made/manifest.json: format None, this version reads 2"]),
    "manifest without shards": prepared(manifest(shards={}), ["manifest.json: damaged", "prepare the data again"]),
    "manifest without a tokenizer": prepared(manifest(tokenizer=None), ["made with another tokenizer"]),
    "manifest without a fact": prepared(lambda folder: drop(folder, "end_of_text"), ["manifest.json: damaged: it has no 'end_of_text'"]),
    "other format": prepared(manifest(format=1), ["made/manifest.json: format 1, this version reads 2", "prepare the data again"]),
    "other tokenizer": prepared(manifest(tokenizer="0" * 64), ["data.prepared: the data in ", "was made with another tokenizer"]),
    "settings that do nothing": given(["filters is for sources", "remove it"], prepared="PLACE", sources=[], filters=["c4"]),
    ".bin of odd length": tokens(ROW.tobytes()[:-1], ["a.bin: has 5999 bytes, a token has 2", "give a whole file"]),
    "empty .bin": tokens(b"", ["a.bin: is empty", "give a whole file"]),
    "ids beyond the vocabulary": tokens(ROW + 1, ["a.bin: has token 300, the tokenizer has 300", "give files that the reference's tokenizer made"]),
    "too few tokens for a sequence": tokens(ROW[:9], ["training text: 9 tokens do not fill one sequence of 16"]),
    "no token file": tokens(ROW, ["a.txt: no token file", "give .bin (nanoGPT, llm.c), .ds (datatrove)"], "a.txt"),
    ".ds of half a token": tokens(ROW.tobytes() + b"\1\0", ["a.ds: has 6002 bytes, a token has 4"], "a.ds", "x|4\n"),
    ".ds of three bytes a token": tokens(ROW, ["a.ds.metadata: declares '3' bytes a token, legal are 2 and 4"], "a.ds", "x|3\n"),
    ".ds beside a .bin": tokens(ROW.astype(np.uint32), ["has uint32 tokens", "has uint16", "give files of one type"], "a.ds", "x|4\n"),
    "no such token file": given(["data.tokens.train: no such file: PLACE/a*.bin"], sources=[], tokens={"train": ["PLACE/a*.bin"], "validation": ["x"]}),
    "validation that is trained on": lambda place, tree: [
        *tokens(ROW, ["a.bin: is named twice in data.tokens; name it once"])(place, tree),
        *(tree["tokens"].update(validation=[str(place / "*.bin")]) or ()),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENS)
def test_tokens(
    case: str, text: Path, made: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tree = tiny_recipe(text, reference_folder)
    tree["data"].pop("validation")
    tree["data"]["made"] = str(made)
    words = [word.replace("PLACE", str(tmp_path)) for word in TOKENS[case](tmp_path, tree["data"])]
    tree["data"].pop("made", None)
    assert run(tmp_path, tree, write_recipe) == 2
    one_line(capsys, words)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert not (tmp_path / "out" / "rounds").exists()


def test_a_tokenizer_without_end_of_text(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_end_of_text(Path(shutil.copytree(reference_folder, tmp_path / "model")))
    words = ["has no end-of-text token (eos_token)", "set eos_token in its tokenizer_config.json"]
    assert run(tmp_path, tiny_recipe(text, tmp_path / "model"), write_recipe) == 2
    one_line(capsys, words)
    assert (
        main(["prepare", str(text), "--out", str(tmp_path / "data"), "--tokenizer", str(tmp_path / "model"), "-q"]) == 2
    )
    one_line(capsys, words)
    assert not (tmp_path / "data").exists()


PREPARE: list[tuple[list[str], str]] = [
    (["TEXT"], "no folder to write to; name it with --out"),
    (["TEXT", "--out", "PLACE/o"], "no tokenizer; name the model whose tokenizer to use with --tokenizer"),
    (["--out", "PLACE/o"], "no text; name files or folders, or give --sample or --nanogpt"),
    (["--out", "PLACE/o", "--sample"], "PLACE/o: no prepared data there"),
    (["--out", "MADE", "--sample", "--size", "9 tokens"], "--size does not go with this; without"),
    (["--out", "MADE", "--sample", "--data.seed=3"], "a key does not go with this; without"),
    (["--out", "MADE", "--nanogpt", "MADE"], "--out and --nanogpt are the same folder"),
    (["--out", "MADE", "--nanogpt", "TEXT"], "TEXT: exists already; give another folder"),
    (["TEXT", "--out", "PLACE/o", "--nanogpt", "PLACE/o", "--tokenizer", "MODEL"], "--out and --nanogpt are the same folder"),
    (["TEXT", "--out", "MADE", "--tokenizer", "MODEL"], "MADE: holds data of another request: "),
    (["RECIPE", "--out", "MADE"], "MADE: holds data of another request: "),
    (["RECIPE", "--out", "PLACE/o", "--seed", "3"], "--seed does not go with this; a recipe has these itself"),
    (["RECIPE", "--out", "PLACE/o", "--data.sise=3"], "unknown key 'data.sise'; did you mean 'size'?"),
    (["RECIPE", "--out", "PLACE/o", "--data={prepared: MADE}"], "its data is prepared already; use it directly"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--train.length=3 steps"], "unknown key 'train'; legal keys are data"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--data.fliters=[]"], "unknown key 'data.fliters'; did you mean 'filters'?"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--size", "9 tokens", "--data.size=8 tokens"], "--size and --data.size are the same"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--seed", "1", "--data.seed=2"], "--seed and --data.seed are the same"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--data.sources=[]"], "and --data.sources are the same setting; give one of them"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--data.size"], "no such option: --data.size"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--sise", "9"], "no such option: --sise"),
    (["TEXT", "-x", "--out", "PLACE/o", "--tokenizer", "MODEL"], "data.sources: -x: no such file or folder"),
    (["TEXT", "TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL"], "two sources have the same name"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--include", "*.c"], "no file there matches include ['*.c']"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "PLACE/none"], "PLACE/none"),
    (["RECIPE", "--out", "PLACE/o", "--encoding", "auto"], "--encoding does not go with this; a recipe has these itself"),
    (["RECIPE", "--out", "PLACE/o", "--text-key", "a"], "--text-key does not go with this; a recipe has these itself"),
    (["--out", "MADE", "--sample", "--document", "line"], "--document does not go with this; without"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--encoding", "latin9000"], "data.sources.0.encoding: got 'latin9000': legal are auto, utf-8"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--document", "page"], "data.sources.0.document: got 'page': legal are auto"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--limit", "9"], "data.sources.0.limit"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--on-error", "go"], "data.sources.0.on_error"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--split", "test"], "remove `split`"),
    (["TEXT", "--out", "PLACE/o", "--tokenizer", "MODEL", "--exclude", "*"], "less ['*']"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), PREPARE)
def test_words_of_prepare(
    words: list[str], expected: str, text: Path, made: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    places = {"TEXT": text, "PLACE": tmp_path, "MADE": made, "MODEL": reference_folder, "RECIPE": recipe}

    def named(word: str) -> str:
        for mark, place in places.items():
            word = word.replace(mark, str(place))
        return word

    assert main(["prepare", *map(named, words), "--quiet"]) == 2
    one_line(capsys, [named(expected)])
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")) == ["recipe.yaml"]
    open_prepared(made).verify()


def be_nobody() -> None:
    """Of the first call's imports some may be closed to nobody."""
    main(["prepare", "no", "--out", "no", "--tokenizer", "no"])
    os.setgid(65534), os.setuid(65534)


@pytest.mark.long
def test_what_is_closed_to_us(text: Path, made: Path, reference_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not read")
    with tempfile.TemporaryDirectory() as folder:  # pytest closes its own folders to others
        place = Path(folder)
        place.chmod(0o777)
        for name, origin in (("text", text), ("made", made), ("model", reference_folder)):
            shutil.copytree(origin, place / name)
            (place / name).chmod(0o755)
        (place / "closed").mkdir(0o755)
        (place / "text").chmod(0o700)
        (place / "made" / "manifest.json").chmod(0o600)
        for words, expected in (
            (["text", "--out", "data", "--tokenizer", "model"], "text: cannot be read (Permission denied); change"),
            (["--out", "made", "--sample"], "made/manifest.json: cannot be read (Permission denied); make it readable"),
            (["model", "--out", "closed/data", "--tokenizer", "model"], "error: closed/data: "),
        ):
            done = program(
                "prepare", *words, cwd=place, env=os.environ | {"HF_HOME": str(place / "home")}, first=be_nobody
            )
            assert done.returncode == 2, done.stderr
            assert len(done.stderr.splitlines()) == 2, done.stderr
            assert expected in done.stderr.splitlines()[1]
            assert not (place / "data").exists()
