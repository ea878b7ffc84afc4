"""The bytes are a function of documents, settings and seed: not of files, shares of the work, or what was before."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pieces import cut_small

from cut_off import Killed, cut_off_at, cut_off_at_file
from inheritune.corpus import prepare
from inheritune.data import Prepared
from inheritune.errors import InputError

WORDS = [f"{a}{b}" for a in ("ba", "do", "ke", "li", "mu", "na", "po", "ri", "su", "te") for b in ("n", "r", "st", "l")]


def texts(count: int = 240, seed: int = 5) -> list[str]:
    """Documents of which many are equal, nearly equal, or equal but for lines that C4 cuts out."""
    draw = random.Random(seed)
    found: list[str] = []
    for number in range(count):
        kind = draw.randrange(4) if number > 20 else 0
        words = draw.choices(WORDS, k=draw.randint(40, 70))
        if kind == 1:
            found.append(draw.choice(found))
            continue
        if kind == 2:
            words = draw.choice(found).rstrip(".").split()
            words[draw.randrange(len(words))] = "other"
        if kind == 3:
            found.append(draw.choice(found).splitlines()[0] + f"\nLine {number} without an end")
            continue
        found.append(" ".join(words) + ".")
    return found


C4 = {"filter": "c4", "min_sentences": None}
FILTERS: dict[str, list[Any]] = {
    "none": [],
    "edited": [C4],
    "exact": [C4, "exact_duplicates"],
    "near": [{"filter": "near_duplicates", "n_grams": 3}],
    "both": [C4, "exact_duplicates", {"filter": "near_duplicates", "n_grams": 3}],
}
# comparing splits all text into words, which takes seconds
SOME = [pytest.param(name, marks=pytest.mark.long if name in ("near", "both") else ()) for name in FILTERS]


def write(folder: Path, some: list[str], files: int, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for number in range(files):
        body = "".join(json.dumps({"text": text}) + "\n" for text in some[number::files]).encode()
        (folder / f"{number}.jsonl{'.gz' * packed}").write_bytes(gzip.compress(body) if packed else body)
    return folder


def request(folders: list[Path], weights: list[float] | None = None, **more: Any) -> dict[str, Any]:
    sources: list[dict[str, Any]] = [{"path": str(folder), "name": f"s{n}"} for n, folder in enumerate(folders)]
    for source, weight in zip(sources, weights or [], strict=False):
        source["weight"] = weight
    return {"sources": sources, "validation": "400 tokens", "workers": 1, **more}


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(prepared.folder.glob("*.bin"))}


@pytest.mark.long
@pytest.mark.parametrize("filters", SOME)
def test_the_order_and_number_of_files_change_nothing(filters: str, tokenizer: Any, tmp_path: Path) -> None:
    some, found = texts(), []
    for number, (files, task, part) in enumerate([(1, 10**9, 10**9), (5, 9_000, 4_000)]):
        random.Random(number).shuffle(some)
        folder = write(tmp_path / f"c{number}", some, files)
        with pytest.MonkeyPatch.context() as patch:
            cut_small(patch, task, part)
            asked = request([folder], filters=FILTERS[filters])
            found.append(contents(prepare(asked, tokenizer, tmp_path / f"d{number}")))
    assert found[0] == found[1]


def documents(prepared: Prepared, split: str) -> set[tuple[int, ...]]:
    rows: list[list[int]] = [[]]
    for token in prepared.tokens(split).read().tolist():
        rows[-1].append(token)
        if token == prepared.end_of_text:
            rows.append([])
    return {tuple(row) for row in rows[:-1]}


@pytest.mark.parametrize("filters", SOME)
def test_validation_depends_on_no_budget_weight_or_seed(
    filters: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inheritune.corpus.building.drawing._VALIDATION_MARGIN", 1)  # so that it is widened too
    some = texts()
    folders = [write(tmp_path / "a", some[:180], 3), write(tmp_path / "b", some[150:], 2)]
    found = []
    for number, (weights, size, seed) in enumerate(
        [(None, None, 1), ([1, 1], "600 tokens", 1), ([9, 1], "900 tokens", 1), (None, "700 tokens", 2)]
    ):
        more = {"size": size} if size else {}
        # So much validation that no document is cut, and copies of it would be found.
        asked = request(folders, weights, filters=FILTERS[filters], validation="5800 tokens", **more)
        prepared = prepare(asked, tokenizer, tmp_path / str(number), seed=seed)
        found.append(prepared.tokens("validation").read().tolist())
        assert not documents(prepared, "validation") & documents(prepared, "train")
    assert all(one == found[0] for one in found)


def outcome(asked: dict[str, Any], tokenizer: Any, out: Path) -> dict[str, bytes] | str:
    """The bytes, or what is wrong."""
    try:
        return contents(prepare(asked, tokenizer, out))
    except InputError as error:
        return str(error)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_what_was_begun_and_given_up_before_changes_nothing(seed: int, tokenizer: Any, tmp_path: Path) -> None:
    """Runs for other sizes, weights, validations and filters over all documents, each cut off somewhere, then this."""
    draw = random.Random(seed)
    some = texts(300, seed)
    folders = [write(tmp_path / "a", some[:200], 3), write(tmp_path / "b", some[190:], 2, packed=True)]

    def drawn_request() -> dict[str, Any]:
        size = draw.choice([None, 300, 1500, 6000, 10**6])
        weights = draw.choice([None, [1, 1], [5, 1]]) if size else None
        corpus = draw.sample(["exact_duplicates", {"filter": "near_duplicates", "n_grams": 3}], draw.randint(0, 2))
        found = request(folders, weights, filters=[C4, *corpus], validation=f"{draw.choice([100, 400, 1500])} tokens")
        if size:
            found["size"] = f"{size} tokens"
        if draw.random() < 0.5 and size != 10**6:
            found["sources"][1]["limit"] = "2000 tokens"
        return found

    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch, 9_000, 4_000)
        last = drawn_request()
        while last.get("size") == "1000000 tokens":
            last = drawn_request()
        for _ in range(4):
            cut_off = cut_off_at_file(draw.randrange(1, 60), lambda file: file.parent.name[:6] in ("collec", "tokens"))
            with cut_off, cut_off_at("data: writing"), pytest.raises((Killed, InputError)):
                prepare(drawn_request(), tokenizer, tmp_path / "data")
        assert outcome(last, tokenizer, tmp_path / "data") == outcome(last, tokenizer, tmp_path / "fresh")


@pytest.mark.parametrize(
    ("weights", "limits"),
    [(None, (None, None)), ([3, 1], (None, None)), ([1, 5], (None, None)), ([5, 1], ("900 tokens", None)), (None, (None, "500 tokens"))],
)  # fmt: skip
def test_the_size_that_would_fit_fits_and_no_larger_one(
    weights: Any, limits: Any, tokenizer: Any, tmp_path: Path
) -> None:
    some = [text for text in texts() if "\n" not in text]
    asked = request([write(tmp_path / "a", some[:60], 1), write(tmp_path / "b", some[60:], 1)], weights)
    for source, limit in zip(asked["sources"], limits, strict=True):
        source["limit"] = limit
    with pytest.raises(InputError, match="would fit") as caught:
        prepare({**asked, "size": "1M tokens"}, tokenizer, tmp_path / "data")
    fits = int(str(caught.value).partition("data.size of ")[2].split()[0].replace(",", ""))
    with pytest.raises(InputError, match=f"data.size of {fits:,} tokens would fit"):
        prepare({**asked, "size": f"{fits + 1} tokens"}, tokenizer, tmp_path / "data")
    found = prepare({**asked, "size": f"{fits} tokens"}, tokenizer, tmp_path / "data")
    assert found.manifest["tokens"]["train"] == fits


def test_a_task_that_ended_before_it_was_noted_counts_once(tokenizer: Any, tmp_path: Path) -> None:
    asked = request([write(tmp_path / "a", texts(60), 3)])
    with cut_off_at("data: writing"), pytest.raises(Killed):
        prepare(asked, tokenizer, tmp_path / "data")
    for done in (tmp_path / ".data.work" / "tasks").glob("*/completions/*"):
        done.unlink()
    assert prepare(asked, tokenizer, tmp_path / "data").manifest["documents"]["found"] == 60
