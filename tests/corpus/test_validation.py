"""Validation: many documents, none with more than its share, and where their pieces come from."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pieces import completed, cut_small
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cut_off import Killed, cut_off_at, cut_off_at_file
from inheritune.corpus import prepare
from inheritune.corpus.building import preparation, writing
from inheritune.data import Prepared, train_tokenizer
from inheritune.recipe import NewTokenizer

WORDS = [f"{a}{b}" for a in ("ba", "do", "ke", "li", "mu", "na", "po", "ri") for b in ("n", "r", "st", "l")]


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer for which each word is a token, with number 1 for all words but those of WORDS."""
    vocabulary = {"<eos>": 0, "<unk>": 1} | {word: number + 2 for number, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")


def texts(count: int, least: int, most: int, mark: str) -> list[str]:
    draw = random.Random(mark)
    return [" ".join(draw.choices(WORDS, k=draw.randint(least, most))) for _ in range(count)]


def records(folder: Path, some: list[str], files: int = 5, packed: bool = False) -> Path:
    folder.mkdir()
    for number in range(files):
        body = "".join(json.dumps({"text": text}) + "\n" for text in some[number::files]).encode()
        (folder / f"{number}.jsonl{'.gz' * packed}").write_bytes(gzip.compress(body) if packed else body)
    return folder


def request(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"sources": list(sources), "validation": "400 tokens", "workers": 1, **more}


def split(prepared: Prepared, name: str) -> list[list[int]]:
    """The documents of 'train' or 'validation', without their ends; the last one must have its end too."""
    rows: list[list[int]] = [[]]
    for token in prepared.tokens(name).read().tolist():
        if token == prepared.end_of_text:
            rows.append([])
        else:
            rows[-1].append(token)
    assert rows.pop() == []
    return rows


def ids(text: str, words: Any) -> list[int]:
    return [words.get_vocab().get(word, 1) for word in text.split()]


def outcome(prepared: Prepared) -> tuple[list[int], list[tuple[int, int]] | None]:
    return prepared.tokens("validation").read().tolist(), prepared.validation_origins


def test_many_short_documents_give_the_bytes_that_they_always_gave(words: Any, tmp_path: Path) -> None:
    """The sums were computed by the version before there was a cap. No document has more than a twentieth."""
    source = {"path": str(records(tmp_path / "text", texts(400, 5, 60, "short")))}
    filters = [{"filter": "length", "min_characters": 60}, "exact_duplicates"]
    found = [
        prepare(request(source, validation="1300 tokens"), words, tmp_path / "all"),
        prepare(
            request(source, validation="1300 tokens", size="3000 tokens", filters=filters), words, tmp_path / "some"
        ),
    ]
    sums = [
        hashlib.sha256(one.tokens(name).read().tobytes()).hexdigest()[:16]
        for one in found
        for name in ("train", "validation")
    ]
    assert sums == ["3a98a1fb9ce68e05", "d137cccab19708b3", "c1653d2b3d03d189", "a80610c4273f13ee"]
    assert [one.validation_origins for one in found] == [None, None]


def test_long_documents_give_their_beginnings_and_nothing_of_them_is_trained_on(
    words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    long, short = texts(250, 50, 200, "long"), texts(250, 5, 15, "short")
    sources = [{"path": str(records(tmp_path / "long", long))}, {"path": str(records(tmp_path / "short", short))}]
    found = prepare(request(*sources), words, tmp_path / "data")
    whole = [ids(text, words) for text in long + short]
    train, validation = split(found, "train"), split(found, "validation")
    held = [text for text in whole if text not in train]
    assert max(map(len, validation)) == 19  # a twentieth of 400, with the end
    assert len(validation) == len(held)
    assert len(train) + len(held) == len(whole)
    for piece in validation:
        assert [text for text in held if text[: len(piece)] == piece and (len(piece) == 19 or len(text) == len(piece))]
    tokens = found.manifest["tokens"]["validation"]
    assert 400 <= tokens < 420
    of_short = sum(len(piece) + 1 for piece in validation if piece in [ids(text, words) for text in short])
    assert [one["validation_tokens"] for one in found.manifest["sources"]] == [tokens - of_short, of_short]
    assert found.manifest["documents"]["validation"] == len(validation) > 20
    assert f"{tokens} validation tokens of {len(validation)} documents" in caplog.messages[-1]


def test_few_long_documents_are_not_all_withheld(words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty would be a third of the text, so fewer give more of their tokens."""
    source = {"path": str(records(tmp_path / "text", texts(60, 300, 300, "few")))}
    found = prepare(request(source), words, tmp_path / "data")
    sizes = [len(piece) + 1 for piece in split(found, "validation")]
    assert 2 <= len(sizes) <= 12
    assert set(sizes) == {-(-400 // len(sizes))}
    assert len(split(found, "train")) + len(sizes) == 60
    assert "from fewer than 20 documents, so the standard errors of its losses are rough" in caplog.text


def pieces_and_records(folder: Path) -> list[dict[str, Any]]:
    """Sources with files that are cut into pieces, of which some are equal, and with records that are not."""
    (folder / "files").mkdir()
    for number, text in enumerate(texts(4, 2200, 2600, "files")):
        (folder / "files" / f"{number}.txt").write_text(text)
    (folder / "files" / "copy.txt").write_text((folder / "files" / "2.txt").read_text())
    return [
        {"path": str(folder / "files"), "document": "300 characters"},
        {"path": str(records(folder / "records", texts(150, 20, 120, "records"), 2)), "name": "records"},
    ]


def test_the_origin_of_a_piece_is_its_place_in_its_file(
    words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    found = prepare(request(*pieces_and_records(tmp_path)), words, tmp_path / "data")
    validation, origins = split(found, "validation"), found.validation_origins
    assert origins is not None
    assert len(origins) == len(validation) == found.manifest["documents"]["validation"]
    files = {file.name: file.read_text() for file in sorted((tmp_path / "files").iterdir())}
    file_of: dict[int, str] = {}
    alone: list[int] = []
    for piece, (origin, place) in zip(validation, origins, strict=True):
        at = [name for name, text in files.items() if ids(text[place : place + 300], words)[: len(piece)] == piece]
        if at:
            assert file_of.setdefault(origin, at[0]) == at[0]
        else:
            assert place == 0
            alone.append(origin)
    assert len(alone) == len({*alone} - {*file_of}) > 3
    assert len({*file_of.values()}) == len(file_of) > 2
    assert len(file_of) + len(alone) < len(validation)
    assert any(
        f"{len(validation)} documents from {len(file_of) + len(alone)} separate texts" in line
        for line in caplog.messages
    )


FILTERS: dict[str, list[Any]] = {
    "none": [],
    "exact": [{"filter": "length", "min_characters": 150}, "exact_duplicates"],
    "near": [{"filter": "near_duplicates", "n_grams": 3}],
}
# comparing splits all text into words, which takes seconds
SOME = [pytest.param(name, marks=pytest.mark.long if name == "near" else ()) for name in FILTERS]


@pytest.mark.parametrize("filters", SOME)
def test_validation_and_its_origins_depend_on_the_text_alone(
    filters: str, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else is drawn, in one reading or several, in however many tasks, and wherever the files are."""
    caplog.set_level("INFO", "inheritune")
    monkeypatch.setattr("inheritune.corpus.building.drawing._VALIDATION_MARGIN", 1)  # so that it reads again
    sources, again = pieces_and_records(tmp_path), []
    expected = outcome(prepare(request(*sources, filters=FILTERS[filters]), words, tmp_path / "whole"))
    assert expected[1]
    for number, (weights, size, seed, task, part) in enumerate(
        [((None, None), 500, 1, None, 10**9), ((3, 1), 900, 1, 7_000, 2_000), ((None, None), 500, 2, 1, 1_000)]
    ):
        weighted = [{**source, "weight": weight} for source, weight in zip(sources, weights, strict=True)]
        asked = request(*weighted, filters=FILTERS[filters], size=f"{size} tokens")
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            cut_small(patch, task, part)
            found = prepare(asked, words, tmp_path / str(number), seed=seed)
        again.append("more documents are needed" in caplog.text)
        assert outcome(found) == expected
    assert any(again)


@pytest.mark.long
def test_several_processes_find_the_same_origins(words: Any, tmp_path: Path) -> None:
    sources = pieces_and_records(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch, 7_000, 2_000)
        found = [prepare(request(*sources, workers=n), words, tmp_path / str(n)) for n in (1, 2, 3)]
    assert outcome(found[0]) == outcome(found[1]) == outcome(found[2])


def test_cut_documents_are_written_once_after_a_kill(words: Any, tmp_path: Path) -> None:
    asked = request({"path": str(records(tmp_path / "text", texts(250, 50, 200, "long")))})
    fresh = prepare(asked, words, tmp_path / "fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SHARD_TOKENS", 70)
        cut_off = cut_off_at_file(3, lambda file: file.name == "written-validation.json")
        with cut_off, pytest.raises(Killed):
            prepare(asked, words, tmp_path / "data")
        found = prepare(asked, words, tmp_path / "data")
    assert len(found.manifest["shards"]["validation"]) == 6
    assert outcome(found) == outcome(fresh)


def test_work_without_origins_is_done_again(words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The version before wrote rows of another form, and did not record which."""
    caplog.set_level("INFO", "inheritune")
    sources = pieces_and_records(tmp_path)
    with cut_off_at("data: writing"), pytest.raises(Killed):
        prepare(request(*sources), words, tmp_path / "data")
    file = tmp_path / ".data.work" / "request.json"
    stored = json.loads(file.read_text())
    del stored["reading"]["index"]
    file.write_text(json.dumps(stored))
    caplog.clear()
    found = prepare(request(*sources), words, tmp_path / "data")
    assert "has work for other text or settings, starting again" in caplog.messages[0]
    assert outcome(found) == outcome(prepare(request(*sources), words, tmp_path / "fresh"))


def test_a_new_tokenizer_has_seen_nothing_of_cut_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, seen = texts(600, 100, 300, "long"), list[str]()

    def train(given: Any, vocabulary: int) -> Any:
        seen.extend(given)
        return train_tokenizer(iter(seen), vocabulary)

    monkeypatch.setattr(preparation, "train_tokenizer", train)
    source = {"path": str(records(tmp_path / "text", some))}
    found = prepare(request(source), NewTokenizer(vocabulary=300), tmp_path / "data")
    loaded = AutoTokenizer.from_pretrained(found.tokenizer_folder)
    pieces = [loaded.decode(piece) for piece in split(found, "validation")]
    assert 20 <= len(pieces) <= 25
    assert len(seen) > 500
    assert {*completed(pieces, some)} <= {*some} - {*seen}
