"""Preparation as a whole: the same bytes however the work is shared out, cut off, or begun for another budget."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from pieces import cut_small

from inheritune.corpus import prepare
from inheritune.errors import InputError

WORDS = (
    "small",
    "model",
    "keeps",
    "blocks",
    "of",
    "the",
    "large",
    "one",
    "and",
    "learns",
    "what",
    "it",
    "lost",
    "again",
)


def documents(count: int, seed: int = 3) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) + f" {n}." for n in range(count)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """600 documents in files of several kinds."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = documents(600)
    for number in range(6):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[number * 80 : number * 80 + 80])
        (folder / f"{number}.jsonl").write_text(lines)
    with gzip.open(folder / "6.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[480:])
    return folder


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch, 20_000, 6_000)


def request(corpus: Path | str, **more: Any) -> dict[str, Any]:
    return {"sources": [{"path": str(corpus)}], "validation": "300 tokens", "workers": 1, **more}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.bin"))}


@pytest.mark.long
def test_the_bytes_do_not_depend_on_how_the_text_is_split(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    more: dict[str, Any] = {"size": "5000 tokens", "filters": ["exact_duplicates"]}
    whole = contents(prepare(request(corpus, **more), tokenizer, tmp_path / "whole").folder)
    for task, part in ((3_000, 500), (50_000, 9_000)):
        with pytest.MonkeyPatch.context() as patch:
            cut_small(patch, task, part)
            assert contents(prepare(request(corpus, **more), tokenizer, tmp_path / str(task)).folder) == whole
    one = tmp_path / "one"
    one.mkdir()
    shuffled = documents(600)
    random.Random(0).shuffle(shuffled)
    (one / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in shuffled))
    assert contents(prepare(request(one, **more), tokenizer, tmp_path / "again").folder) == whole


@pytest.mark.long
@pytest.mark.usefixtures("small_tasks")
def test_several_processes_give_the_same_bytes(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    alone = prepare(request(corpus), tokenizer, tmp_path / "alone")
    crew = prepare(request(corpus, workers=3), tokenizer, tmp_path / "crew")
    assert contents(crew.folder) == contents(alone.folder)
    for name in ("documents", "sources", "filters", "tokens"):
        assert crew.manifest[name] == alone.manifest[name]


@pytest.mark.long
@pytest.mark.usefixtures("small_tasks")
def test_a_small_budget_reads_on_until_it_has_enough(
    corpus: Path, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One token in ten is asked for; a filter that leaves few documents makes the first threshold too low."""
    caplog.set_level("INFO", "inheritune")
    whole = prepare(request(corpus), tokenizer, tmp_path / "whole")
    rest: dict[str, Any] = {"filters": [{"filter": "length", "min_characters": 200}]}
    kept = prepare(request(corpus, **rest), tokenizer, tmp_path / "kept")
    assert kept.manifest["documents"]["train"] < whole.manifest["documents"]["train"] / 2
    part = prepare(request(corpus, size="400 tokens", **rest), tokenizer, tmp_path / "part")
    assert any("more documents are needed" in line for line in caplog.messages)
    assert part.manifest["documents"]["drawn"] < 600
    assert part.tokens("validation").read().tolist() == kept.tokens("validation").read().tolist()
    assert part.tokens("train").read().tolist() == kept.tokens("train").read(0, 400).tolist()


@pytest.fixture
def opened() -> list[str]:
    """The names of the files that are opened at an address counted://PATH."""
    names: list[str] = []

    class Counted(LocalFileSystem):
        protocol = "counted"

        def _open(self, path: str, *words: Any, **more: Any) -> Any:
            names.append(Path(path).name)
            return super()._open(path, *words, **more)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("counted://")))

    fsspec.register_implementation("counted", Counted, clobber=True)
    return names


@pytest.mark.long
@pytest.mark.usefixtures("small_tasks")
def test_another_budget_reads_nothing_again(
    corpus: Path, tokenizer: Any, tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    asked = request(f"counted://{corpus}", size="2000 tokens", validation="200 tokens")
    with pytest.raises(InputError, match=r"data\.size of .* tokens would fit"):
        prepare({**asked, "size": "1M tokens", "validation": "300 tokens"}, tokenizer, tmp_path / "data")
    opened.clear()
    caplog.clear()
    found = prepare(asked, tokenizer, tmp_path / "data")
    assert opened == []
    assert "data: writing" in caplog.messages
    assert "data: tokenising" not in caplog.messages
    assert not list(tmp_path.glob(".*"))
    fresh = prepare(asked, tokenizer, tmp_path / "fresh")
    assert opened
    assert "data: tokenising" in caplog.messages
    assert contents(found.folder) == contents(fresh.folder)


@pytest.mark.long
@pytest.mark.usefixtures("small_tasks")
def test_a_file_that_is_mended_is_read_again_and_no_other(
    corpus: Path, tokenizer: Any, tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    asked = request(f"counted://{corpus}")
    good = (corpus / "4.jsonl").read_text()
    (corpus / "4.jsonl").write_text(good + "{broken\n")
    with pytest.raises(InputError, match=r"4\.jsonl: line 81: not a JSON record"):
        prepare(asked, tokenizer, tmp_path / "data")
    (corpus / "4.jsonl").write_text(good)
    opened.clear()
    caplog.clear()
    found = prepare(asked, tokenizer, tmp_path / "data")
    assert opened == ["4.jsonl", "5.jsonl", "6.jsonl.gz"]
    assert "1 of" in caplog.messages[0]
    assert contents(found.folder) == contents(prepare(request(corpus), tokenizer, tmp_path / "fresh").folder)


@pytest.mark.long
@pytest.mark.usefixtures("small_tasks")
def test_what_is_broken_is_passed_over_and_counted(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    clean = contents(prepare(request(corpus), tokenizer, tmp_path / "clean").folder)
    broken = "".join("{" + f"{'x' * n}broken\n" for n in range(51))
    (corpus / "4.jsonl").write_text(broken + (corpus / "4.jsonl").read_text() + '{"body": "no text"}\n[2]\n')
    with pytest.raises(InputError, match="line 1: not a JSON record"):
        prepare(request(corpus), tokenizer, tmp_path / "data")
    asked = request(corpus)
    asked["sources"][0]["on_error"] = "skip"
    found = prepare(asked, tokenizer, tmp_path / "data")
    assert contents(found.folder) == clean
    kinds = {"not a JSON record": 51, "no text under 'text'": 1, "a JSON list, not an object with keys": 1}
    assert found.manifest["sources"][0]["passed_over"] == kinds  # not a reason for each place


def test_filters_report_what_goes_in_and_out_and_keep_a_sample(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    (corpus / "again.jsonl").write_text((corpus / "0.jsonl").read_text() + (corpus / "1.jsonl").read_text())
    filters: list[Any] = [
        {"filter": "length", "min_characters": 100, "name": "too-short"},
        {"filter": "length", "max_characters": 300},
        "exact_duplicates",
    ]
    whole = "4000 tokens"  # so many that no document is cut
    found = prepare(request(corpus, filters=filters, validation=whole), tokenizer, tmp_path / "data")
    texts = [*documents(600), *documents(600)[:160]]
    medium = [text for text in texts if len(text) >= 100]
    short = [text for text in medium if len(text) <= 300]
    steps = found.manifest["filters"]
    assert [(step["documents_in"], step["documents_out"]) for step in steps] == [
        (760, len(medium)), (len(medium), len(short)), (len(short), len(set(short))),
    ]  # fmt: skip
    assert [step["filter"] for step in steps] == ["too-short", "length", "exact_duplicates"]
    assert steps[0]["reasons"] == {"too few characters": 760 - len(medium)}
    counted = [
        sum(len(tokenizer(text)["input_ids"]) + 1 for text in some) for some in (texts, medium, short, set(short))
    ]
    assert [steps[0]["tokens_in"], *(step["tokens_out"] for step in steps)] == counted
    assert sum(found.manifest["tokens"].values()) == counted[-1]
    samples = sorted((tmp_path / "data" / "removed").iterdir())
    assert [file.name for file in samples] == ["1-length.jsonl", "2-length.jsonl", "3-exact_duplicates.jsonl"]
    for file, fits in zip(
        samples, (lambda t: len(t) < 100, lambda t: len(t) > 300, set(short).__contains__), strict=True
    ):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert 0 < len(rows) <= 20
        assert all(fits(row["text"]) for row in rows)


def test_special_tokens_spelt_out_in_text_stay_text(tokenizer: Any, tmp_path: Path) -> None:
    spelt_out = f"one {tokenizer.eos_token} two"
    (tmp_path / "a.txt").write_text(spelt_out)
    (tmp_path / "b.txt").write_text("three")
    sources = [{"path": str(tmp_path / name)} for name in ("a.txt", "b.txt")]
    whole = len(tokenizer(spelt_out, split_special_tokens=True)["input_ids"]) + 1
    asked = {"sources": sources, "validation": f"{whole} tokens", "workers": 1}
    found = prepare(asked, tokenizer, tmp_path / "data")
    rows = [found.tokens(split).read().tolist() for split in ("train", "validation")]
    assert sorted(row.count(tokenizer.eos_token_id) for row in rows) == [1, 1]
    assert sorted(tokenizer.decode(row[:-1]) for row in rows) == [spelt_out, "three"]


def test_two_at_work_in_one_folder(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / ".data.work").mkdir()
    with (tmp_path / ".data.work" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is at work in it"):
            prepare(request(corpus), tokenizer, tmp_path / "data")


def test_what_a_kill_left_beside_a_finished_folder_is_removed(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    import fcntl

    prepare(request(corpus), tokenizer, tmp_path / "data")
    before = contents(tmp_path / "data")
    (tmp_path / ".data.work" / "collected-0").mkdir(parents=True)
    with (tmp_path / ".data.work" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as one that is still at it
        prepare(request(corpus), tokenizer, tmp_path / "data")  # which is finished
        assert (tmp_path / ".data.work" / "collected-0").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    (tmp_path / ".other.work").mkdir()  # what is begun for a folder that is not finished stays
    prepare(request(corpus), tokenizer, tmp_path / "data")
    with pytest.raises(InputError, match="exists already"):
        prepare(request(corpus), tokenizer, tmp_path / "other")
    assert [place.name for place in tmp_path.glob(".*")] == [".other.work"]
    assert contents(tmp_path / "data") == before
