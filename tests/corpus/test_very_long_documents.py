"""Long documents, and tables that unpack to much more than they store, in bounded memory."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inheritune.data import tokenizer as module
from inheritune.data.tokenizer import Encoder

WORDS = [
    "the ",
    "small ",
    "model  ",
    "keeps\n",
    "\n\n\n",
    "über",
    "東京",
    "🙂",
    "   ",
    "3.14",
    "x",
    "<|endoftext|>",
    "\t",
    "e\u0301",
    "'s ",
]


def texts() -> dict[str, str]:
    generator = random.Random(0)
    return {
        "words": "".join(generator.choice(WORDS) for _ in range(6000)),
        "one word": "ab" * 8000,
        "one letter": "a" * 16001,
        "blanks": " " * 16000 + "a",
        "letters of several tokens": "".join(generator.choice("漢字語🙂") for _ in range(9000)),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(texts()))
def test_a_text_in_pieces_has_the_tokens_of_the_whole(
    name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = texts()[name]
    whole = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for size, value in (("_LONG", 5000), ("_PIECE", 3001), ("_OVERLAP", 400)):
        monkeypatch.setattr(module, size, value)
    encoder = Encoder(tokenizer)
    assert encoder._tokenizer is None  # else this would test nothing
    joined = encoder._in_pieces(text)
    assert joined is None or joined == whole
    if name == "words":
        assert joined == whole
    assert encoder.encode([text, "the small"]) == [whole, tokenizer("the small", add_special_tokens=False)["input_ids"]]


_READ = """
import resource, sys
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.recipe import Source
import pyarrow.parquet, pyarrow.compute

sources = [Source(path=sys.argv[1])]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lengths = [len(text.text) for one in list_inputs(sources) for text in read(one, sources[0], print, seed=0)]
print(len(lengths), set(lengths), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def read_in_process(file: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.split("\n")[0].split(" ") if not done.returncode else done.stderr.splitlines()[-1:]


@pytest.mark.long
@pytest.mark.parametrize("stored_type", [True, False])
def test_a_table_that_stores_a_text_once_for_many_rows(tmp_path: Path, stored_type: bool) -> None:
    """256 rows of 4 MB in a file of some hundred KB: a gigabyte, of which little is in memory at any time."""
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array(["x" * 4_000_000]))
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet", store_schema=stored_type)
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    count, lengths, megabytes = read_in_process(tmp_path / "a.parquet")
    assert (count, lengths) == ("256", "{4000000}")
    assert int(megabytes) < 400


@pytest.mark.long
def test_a_column_that_unpacks_to_far_more_than_it_stores(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from inheritune.corpus.sources.inputs import list_inputs
    from inheritune.corpus.sources.reading import read
    from inheritune.errors import InputError
    from inheritune.recipe import Source

    text = pa.array(["x" * 15_000_000] * 18)
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": text}), file, compression="zstd", use_dictionary=False)
    source = Source(path=str(file))
    with pytest.raises(InputError, match=r"a\.parquet: row group 1: column 'text' unpacks from .* to 270,0"):
        list(read(list_inputs([source])[0], source, print, seed=0))
