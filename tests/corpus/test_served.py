"""Text from servers: a hub and a plain web server of its own on this machine, asked by the real clients."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import web_server

COMMIT = "a" * 40
API = "/api/datasets/org/name"
LINES = [f"line {number} of many" for number in range(50_000)]


def parquet(texts: list[str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    out = pa.BufferOutputStream()
    parquet.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), out)
    return bytes(out.getvalue().to_pybytes())


HUB = {f"train-{file}.parquet": parquet([f"{file} {row}" for row in range(20)]) for file in range(3)}
WEB = {
    "/web/a.jsonl": "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode(),
    "/web/b.txt.gz": gzip.compress("\n".join(LINES).encode()),
}


def answer(path: str, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
    """A hub with the data set org/name, which gives ranges of files, and a web server, which does not."""
    path = path.partition("?")[0]
    if path in WEB:
        return 200, {}, WEB[path]
    if path == "/web/closed.txt":
        return 403, {}, b""
    facts: Any = None
    if path in (API, f"{API}/revision/main", f"{API}/revision/{COMMIT}"):
        files = [{"rfilename": name} for name in HUB]
        facts = {"id": "org/name", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": files}
    elif path in (f"{API}/tree/main", f"{API}/tree/{COMMIT}"):
        facts = [{"type": "file", "path": name, "size": len(content), "oid": "0"} for name, content in HUB.items()]
    if facts is not None:
        return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()
    content = HUB.get(path.rpartition("/")[2])
    if path.startswith("/datasets/org/name/resolve/") and content is not None:
        headers = {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted is None:
            return 200, headers, content
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        return 206, headers | {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}, part
    missing = "EntryNotFound" if "org/name" in path else "RepoNotFound"
    return 404, {"X-Error-Code": "RevisionNotFound" if "/revision/" in path else missing}, b""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with web_server(lambda _, path, headers: answer(path, headers.get("Range"))) as found:
        yield found


_READ = """
import json, sys
import datasets
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.errors import InputError
from inheritune.recipe import Source
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
source = Source(**json.loads(sys.argv[1]))
try:
    inputs = list_inputs([source], 100_000)
    print(json.dumps([one.address for one in inputs]))
    print(json.dumps([text.text for one in inputs for text in read(one, source, print, seed=1)]))
except InputError as error:
    print(error)
"""


def served(url: str, home: Path, **source: str) -> list[str]:
    """What a process of its own finds and reads: two lines, or one that says what is wrong."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-c", _READ, json.dumps(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=plain | settings)
    return done.stdout.splitlines()


@pytest.mark.long
def test_a_hub_data_set_streamed_and_as_files(url: str, tmp_path: Path) -> None:
    written = sorted(f"{file} {row}" for file in range(3) for row in range(20))
    inputs, texts = map(json.loads, served(url, tmp_path, dataset="org/name"))
    assert inputs == ["org/name"]
    assert sorted(texts) == written != texts
    for path in ("hf://datasets/org/name", "hf://datasets/org/name/*.parquet"):
        inputs, texts = map(json.loads, served(url, tmp_path, path=path))
        assert inputs == [f"hf://datasets/org/name/{name}" for name in HUB]
        assert sorted(texts) == written


@pytest.mark.long
def test_web_servers_that_only_give_whole_files(url: str, tmp_path: Path) -> None:
    """They are read from the beginning in one request, so lines behind the first blocks are there as well."""
    inputs, texts = map(json.loads, served(url, tmp_path, path=f"{url}/web/a.jsonl"))
    assert inputs == [f"{url}/web/a.jsonl"]  # not split
    assert texts == LINES
    _, texts = map(json.loads, served(url, tmp_path, path=f"{url}/web/b.txt.gz?download=1", document="line"))
    assert [text.strip() for text in texts] == LINES


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"dataset": "org/other"}, ["org/other", "doesn't exist on the Hub or cannot be accessed", "hf auth login"]),
        ({"dataset": "org/name", "revision": "b"}, ["Revision 'b' doesn't exist", "correct `dataset` or `revision`"]),
        ({"dataset": "org/name", "split": "test"}, ["Bad split: test", "['train']", "set the source's `split`"]),
        ({"path": "hf://datasets/org/other"}, ["hf://datasets/org/other: no such file or folder", "correct the path"]),
        ({"path": "hf://datasets/org/name/*.csv"}, ["hf://datasets/org/name/*.csv: no file matches the pattern"]),
        ({"path": "URL/web/none.txt"}, ["/web/none.txt: no such file or folder", "correct the path"]),
        ({"path": "URL/web/closed.txt"}, ["/web/closed.txt: ", "403"]),
    ],
    ids=lambda value: "-".join(value.values()).replace("/", "_") if isinstance(value, dict) else "",
)
def test_what_is_not_there(url: str, tmp_path: Path, source: dict[str, str], words: list[str]) -> None:
    (line,) = served(url, tmp_path, **{key: value.replace("URL", url) for key, value in source.items()})
    for part in words:
        assert part in line
