"""`push`: what a dry run says, what is uploaded, that no token is ever shown. Uploads go to a server of this machine
that speaks the hub's protocol (repositories, validation, LFS, commits), asked by the hub's own client.
"""

import base64
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_summary import write_summary

from inheritune import inherit
from inheritune.card import push
from inheritune.cli import main
from processes import fresh_program

TOKEN = "hf_NobodyMayReadThis"


@dataclass
class Hub:
    """Repositories by id: whether they are private, and for each branch its files."""

    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    refuse: int = 0

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        path = path.partition("?")[0]
        self.asked.append((method, path))
        if path.startswith("/store/"):
            self.uploaded[path.removeprefix("/store/")] = body
            return 200, {}
        if path == "/api/agent-harnesses":  # the client's own curiosity, without a token
            return 404, {}
        self.tokens.add(token)
        if self.refuse:
            return self.refuse, {"error": f"not for {token}"}
        if path == "/api/repos/create":
            spec = json.loads(body)
            name = f"{spec['organization']}/{spec['name']}"
            if name in self.repositories:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.repositories[name] = {"private": spec.get("visibility") == "private", "branches": {"main": {}}}
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": [{"message": "no language"}]}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            where = {
                "objects": [
                    one | {"actions": {"upload": {"href": f"{self.url}/store/{one['oid']}"}}} for one in objects
                ]
            }
            return 200, where
        return self._model(path.split("/")[3:], body)

    def _model(self, words: list[str], body: bytes) -> tuple[int, Any]:
        name, what = "/".join(words[:2]), words[2:]
        found = self.repositories[name]
        if not what:
            return 200, {"id": name, "sha": "0" * 40, "private": found["private"], "tags": [], "siblings": []}
        if what[0] == "branch":
            found["branches"][what[1]] = {}
            return 200, {}
        if what[0] == "preupload":
            large = (".safetensors",)
            return 200, {"files": [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]}  # fmt: skip
        assert what[0] == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                found["branches"][what[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                found["branches"][what[1]][line["value"]["path"]] = self.uploaded[line["value"]["oid"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, found = made.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            shown = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(shown)))
            self.end_headers()
            self.wfile.write(shown)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def model(reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "small"
    inherit(reference_folder, 2, out=folder)
    return folder


def ask(hub: Hub, home: Path, *words: str, **variables: str) -> Any:
    """`inheritune push` as a user's, with this hub and a home of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return fresh_program("push", *words, env=plain | settings | variables)


@pytest.mark.long
def test_it_uploads_what_the_dry_run_says(hub: Hub, model: Path, tmp_path: Path) -> None:
    words = (str(model), "org/small", "--private", "--revision", "v1", "--json")
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    planned = json.loads(ask(hub, tmp_path, *words, HF_TOKEN=TOKEN).stdout)
    assert hub.asked == []
    done = ask(hub, tmp_path, *words, "--really", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {key: found[key] for key in planned} == planned | {"dry_run": False}
    assert "no language" in done.stderr
    assert found["commit"] == f"{hub.url}/org/small/commit/{'1' * 40}"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    repository = hub.repositories["org/small"]
    assert repository["private"]
    stored = repository["branches"]["v1"]
    assert {one["name"] for one in planned["files"]} == stored.keys()
    for name, content in stored.items():
        if name != "README.md":
            assert content == (model / name).read_bytes()
    assert 'from_pretrained("org/small", revision="v1")' in stored["README.md"].decode()
    assert before == {path: path.stat().st_mtime_ns for path in model.rglob("*")}  # nothing here has changed
    written = b"".join(path.read_bytes() for path in [*tmp_path.rglob("*"), *model.rglob("*")] if path.is_file())
    assert TOKEN.encode() not in written + done.stdout.encode() + done.stderr.encode()


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(401, 2, "does not accept the token"), (403, 2, "may not write there"), (500, 1, "the hub failed (500")],
)
def test_a_refusal_is_one_line_without_the_token(
    hub: Hub, model: Path, tmp_path: Path, status: int, code: int, said: str
) -> None:
    hub.refuse = status
    done = ask(hub, tmp_path, str(model), "org/small", "--really", "-q", HF_TOKEN=TOKEN, INHERITUNE_DEBUG="1")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert TOKEN not in done.stderr + done.stdout


@pytest.mark.long
def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.repositories["org/small"] = {"private": False, "branches": {"main": {}}}
    done = ask(hub, tmp_path, str(model), "org/small", "--private", "--really", "-q", HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "is there already and is public" in done.stderr
    assert hub.uploaded == {}
    assert hub.repositories["org/small"]["branches"] == {"main": {}}


@pytest.mark.long
def test_without_a_network_and_with_a_token_that_no_header_can_hold(model: Path, tmp_path: Path) -> None:
    nowhere = Hub(url="http://127.0.0.1:9")  # the port of a service that discards everything: nobody listens
    done = ask(nowhere, tmp_path, str(model), "org/small", "--really", "-q", HF_TOKEN=TOKEN)
    assert done.returncode == 1
    assert "the hub: cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = ask(nowhere, tmp_path, str(model), "org/small", "--really", "-q", HF_TOKEN=f"{TOKEN}\x01é")
    assert done.returncode == 2
    assert done.stderr.startswith("error: HF_TOKEN: it has characters that no token has; ")
    assert len(done.stderr.splitlines()) == 1
    assert TOKEN not in done.stderr


def test_without_a_token(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    assert main(["push", str(model), "org/small", "--really"]) == 2
    shown = capsys.readouterr()
    assert "HF_TOKEN: there is no token" in shown.err
    assert "token       none" in shown.out


@pytest.mark.parametrize("width", [80, 120])
def test_a_dry_run_for_people(
    width: int, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(model), "org/small"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "org/small, revision main, public",
        "HF_TOKEN",
        "model.safetensors",
        "license: unknown",
        "Nothing was",
    ):
        assert said in shown
    assert TOKEN not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_no_form_of_a_token_stays_in_a_text() -> None:
    odd = "secret\nvalue\x01é"
    for text in (f"header {odd!r}", f"header {odd!a}", f"header {odd}", f"b{odd!r}"):
        assert "secret" not in push.without_token(text, odd)
    assert push.without_token("Bearer hf_abcdef", None) == "Bearer [token]"


def test_the_result_of_a_run_and_of_a_training(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "rounds" / "1-2layers").mkdir(parents=True)
    (run / "rounds" / "1-2layers" / "model").symlink_to(model)
    write_summary(run, "rounds/1-2layers/model")
    assert push.find_model(run) == run / "rounds/1-2layers/model"
    assert push.find_model(run / "rounds" / "1-2layers") == run / "rounds/1-2layers/model"


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


def damage(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n")


def half_done(folder: Path) -> None:
    (folder / "config.json").rename(folder / "other.json")
    write_summary(folder, "model", finished=False)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (cut, "damaged or cut short"),
        (damage, "its metadata is damaged"),
        (half_done, "the run is not finished"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), "no model there"),
    ],
)
def test_what_cannot_be_uploaded(
    break_it: Any, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "copy"))
    break_it(folder)
    assert main(["push", str(folder), "org/small"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere", "org/name"], "/nowhere: no such folder"),
        (["MODEL", "name"], "it has no owner"),
        (["MODEL", "org/na me"], "not a repository's id"),
        (["MODEL", "a/b/c"], "not a repository's id"),
        (["MODEL", "org/name", "--revision", "a b"], "not the name of a branch"),
    ],
)
def test_wrong_words(words: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", *(str(model) if word == "MODEL" else word for word in words)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_warnings(model: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "copy"))
    for file in [*folder.glob("tokenizer*"), folder / "README.md"]:
        file.unlink()
    (folder / "modeling_own.py").write_text("")
    (folder / ".README.md.partial").write_text("left behind by a kill")
    found = push.prepare_upload(folder, "org/name")
    assert ".README.md.partial" not in dict(found.files)
    assert len(found.notes) == 3
    card = yaml.safe_load((model / "README.md").read_text().split("---")[1])
    assert push.prepare_upload(model, "org/name").card == card
