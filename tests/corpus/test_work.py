"""The working folder of a preparation: what is damaged or out of date in it is made again, or said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pieces import cut_small

from conftest import heard, make_text
from cut_off import Killed, cut_off_at
from inheritune.corpus import prepare
from inheritune.corpus.building import writing
from inheritune.data import Prepared
from inheritune.errors import InputError, RunError
from inheritune.recipe import NewTokenizer


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch, 9_000, 4_000)


def request(text: Path, **more: Any) -> dict[str, Any]:
    return {"sources": [{"path": str(text)}], "validation": "500 tokens", "workers": 1, **more}


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(prepared.folder.glob("*.bin"))}


def begun(asked: dict[str, Any], tokenizer: Any, out: Path) -> Path:
    """A working folder in which all is done but the writing."""
    with cut_off_at("data: writing"), pytest.raises(Killed):
        prepare(asked, tokenizer, out)
    return out.with_name(f".{out.name}.work")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def largest(work: Path, pattern: str) -> Path:
    return max(sorted(work.glob(pattern)), key=lambda file: file.stat().st_size)


@pytest.fixture(scope="module")
def half_done(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A working folder in which all is done but the writing; and the shards that another request is to make of it."""
    place = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch, 9_000, 4_000)
        expected = contents(prepare(request(text), tokenizer, place / "fresh"))
        return begun(request(text, size="300 tokens"), tokenizer, place / "data"), expected


@pytest.mark.parametrize("fault", [cut, edit, Path.unlink], ids=["cut", "edited", "gone"])
@pytest.mark.parametrize(
    "pattern", ["request.json", "gates.json", "collected-0/*.json", "collected-0/*.jsonl", "tokens-0/*.bin", "tokens-0/*.npy", "tokens-0/*.json"]
)  # fmt: skip
def test_what_is_damaged_is_never_taken_for_whole(
    pattern: str,
    fault: Callable[[Path], None],
    half_done: Any,
    text: Path,
    tokenizer: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "inheritune")
    if fault is edit and not pattern.startswith("tokens"):
        pytest.skip("edited JSON is a request of its own, and a part is no longer read when it has been tokenised")
    work, expected = shutil.copytree(half_done[0], tmp_path / ".data.work"), half_done[1]
    fault(largest(work, pattern))
    found = prepare(request(text), tokenizer, tmp_path / "data")
    assert any("resuming" in line for line in caplog.messages) == (pattern not in ("request.json", "gates.json"))
    assert contents(found) == expected


@pytest.mark.long
def test_a_part_that_was_edited_before_it_is_tokenised_is_named(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    work = begun(request(text), tokenizer, tmp_path / "data")
    edit(largest(work, "collected-0/*.jsonl"))
    shutil.rmtree(work / "tokens-0")
    with pytest.raises(RunError, match=r"collected-0/.*jsonl: changed since it was written; delete it"):
        prepare(request(text), tokenizer, tmp_path / "data")
    largest(work, "collected-0/*.jsonl").unlink()
    found = contents(prepare(request(text), tokenizer, tmp_path / "data"))
    assert found == contents(prepare(request(text), tokenizer, tmp_path / "fresh"))


def test_a_file_that_grows_while_it_is_read_is_an_error_and_read_again(tokenizer: Any, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text")

    def grow(line: str) -> None:
        if line.startswith("data: reading"):
            with (text / "007.txt").open("a") as file:
                file.write("More and more.\n")

    changed = r"007\.txt: was changed while it was read; run the same command again"
    with heard(grow), pytest.raises(RunError, match=changed):
        prepare(request(text), tokenizer, tmp_path / "data")
    found = contents(prepare(request(text), tokenizer, tmp_path / "data"))
    assert found == contents(prepare(request(text), tokenizer, tmp_path / "fresh"))


def test_a_new_tokenizer_is_learnt_again_when_a_file_has_changed(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text")
    begun(request(text), NewTokenizer(vocabulary=290), tmp_path / "data")
    (text / "003.txt").write_text("zyx wvu " * 400)
    found = prepare(request(text), NewTokenizer(vocabulary=290), tmp_path / "data")
    fresh = prepare(request(text), NewTokenizer(vocabulary=290), tmp_path / "fresh")
    assert contents(found) == contents(fresh)
    assert found.manifest["tokenizer"] == fresh.manifest["tokenizer"]


def test_another_word_list_of_a_filter_is_another_request(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("nothing\n")
    filters = [{"filter": "c4", "min_sentences": None, "bad_words": str(words)}]
    begun(request(text, filters=filters), tokenizer, tmp_path / "data")
    words.write_text("document 7\n")
    found = prepare(request(text, filters=filters), tokenizer, tmp_path / "data")
    assert sum(found.manifest["filters"][0]["reasons"].values()) > 0


@pytest.mark.long
def test_other_filters_before_a_comparison_are_another_comparison(tokenizer: Any, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text")
    for number in range(20):
        shutil.copy(text / "000.txt", text / f"a{number:02d}.txt")
    near = {"filter": "near_duplicates", "n_grams": 3}
    begun(request(text, filters=[near]), tokenizer, tmp_path / "data")
    asked = request(text, filters=["exact_duplicates", near])
    found = prepare(asked, tokenizer, tmp_path / "data")
    fresh = prepare(asked, tokenizer, tmp_path / "fresh")
    assert contents(found) == contents(fresh)
    assert found.manifest["filters"] == fresh.manifest["filters"]


def test_a_folder_of_others_is_left_alone(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(InputError, match=f"{name}: exists already"):
            prepare(request(text), tokenizer, tmp_path / name)
    assert (tmp_path / "folder" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert contents(prepare(request(text), tokenizer, tmp_path / "empty"))


@pytest.mark.long
def test_many_parts_keep_few_files_open(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    import resource

    asked = request(make_text(tmp_path / "many", documents=200, words=10), validation="50 tokens")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch, None, 1)
        patch.setattr("inheritune.data.shards._OPEN_FILES", 20)
        here = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 60, limits[1]))
        try:
            found = prepare(asked, tokenizer, tmp_path / "data")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.manifest["documents"]["found"] == 200


def test_ids_beyond_the_number_of_entries_are_kept(text: Path, tmp_path: Path) -> None:
    """A vocabulary may leave ids out; its length is then no measure of its largest."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for file in text.iterdir() for word in file.read_text().split()})
    vocabulary = {"<eos>": 0, "<unk>": 1} | {word: 70_000 + number for number, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SHARD_TOKENS", 1_000)
        found = prepare(request(text), made, tmp_path / "data")
    assert found.manifest["dtype"] == "uint32"
    assert found.manifest["largest_token"] >= 70_000
    ids = np.concatenate([found.tokens(split).read() for split in ("train", "validation")]).tolist()
    assert sorted(set(ids)) == sorted({0, *(vocabulary[word] for word in words)})
    assert json.loads((found.folder / "manifest.json").read_text())["documents"]["found"] == 60
