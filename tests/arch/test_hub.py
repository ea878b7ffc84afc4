"""References on a hub: a server of its own on this machine, asked by the real client in a process of its own."""

import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from conftest import web_server, weights
from processes import fresh_program, program

TOKEN = "hf_let_me_in"


@dataclass
class Hub:
    """A hub that serves folders as models: `models[name][revision]` is a folder. It writes down what it was asked."""

    models: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    log: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        self.log.append((method, path))
        parts = path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[4:], token)
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        problem = self._closed(name, revision, token)
        if problem is not None:
            return problem
        place = self._revisions(name)[revision] / file
        commit = {"X-Repo-Commit": _commit(name, self._revisions(name)[revision])}
        if not place.is_file():
            return 404, commit | {"X-Error-Code": "EntryNotFound"}, b"Entry not found"
        body = place.read_bytes()
        return 200, commit | {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body

    def _revisions(self, name: str) -> dict[str, Path]:
        """The folders by branch and by commit."""
        found = self.models.get(name, {})
        return found | {_commit(name, folder): folder for folder in found.values()}

    def _closed(self, name: str, revision: str, token: str | None) -> tuple[int, dict[str, str], bytes] | None:
        if name not in self.models:
            return (401 if token is None else 404), {"X-Error-Code": "RepoNotFound"}, b"Repository not found"
        if name in self.gated and token != f"Bearer {TOKEN}":
            return (401 if token is None else 403), {"X-Error-Code": "GatedRepo"}, b"Access to it is restricted"
        if revision not in self._revisions(name):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"Revision not found"
        return None

    def _describe(self, name: str, words: list[str], token: str | None) -> tuple[int, dict[str, str], bytes]:
        """What the API says of a model (`revision/REV`), or the list of its files (`tree/REV`)."""
        revision = words[1] if len(words) > 1 else "main"
        problem = self._closed(name, revision, token)
        if problem is not None:
            return problem
        folder = self._revisions(name)[revision]
        files = sorted(file for file in folder.iterdir() if file.is_file())
        facts: Any = {"id": name, "sha": _commit(name, folder), "tags": [], "private": False}
        facts["siblings"] = [{"rfilename": file.name} for file in files]
        if words[:1] == ["tree"]:
            if len(words) > 2:
                return 404, {"X-Error-Code": "EntryNotFound"}, b"Entry not found"
            facts = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
        return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()

    def fetched(self) -> set[str]:
        """The files whose content was asked for."""
        return {path.rsplit("/", 1)[1] for method, path in self.log if method == "GET" and "/resolve/" in path}


def _commit(name: str, folder: Path) -> str:
    return hashlib.sha1(f"{name} {folder}".encode()).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()

    with web_server(lambda method, path, headers: made.answer(method, path, headers.get("Authorization"))) as made.url:
        yield made


@pytest.fixture
def sharded(reference_folder: Path, tmp_path: Path) -> Path:
    """The reference in several files, the blocks one after the other."""
    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    for file in reference_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _read_settings_again() -> None:
    """What huggingface_hub reads of the environment when it is imported: a warm process has imported it before."""
    import huggingface_hub

    importlib.reload(huggingface_hub.constants)
    huggingface_hub.hf_api.api.endpoint = huggingface_hub.constants.ENDPOINT


def ask(hub: Hub, home: Path, *words: str, fresh: bool = False, **variables: str) -> Any:
    """Run `inheritune inherit` with this hub and a cache of its own, from nothing if `fresh`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = plain | settings | variables
    if fresh:
        return fresh_program("inherit", *words, env=environment)
    return program("inherit", *words, env=environment, first=_read_settings_again)


def refusal(done: Any, out: Path) -> str:
    """The line of a refusal, which leaves nothing behind."""
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return str(done.stderr)


def is_prefix(target: Path, reference: Path) -> None:
    """The target's tensors are the reference's, byte for byte, and those of two blocks."""
    ours, theirs = weights(target), weights(reference)
    assert ours == {name: theirs[name] for name in ours}
    assert {name.split(".")[2] for name in ours if ".layers." in name} == {"0", "1"}
    assert AutoModelForCausalLM.from_pretrained(target).config.num_hidden_layers == 2


@pytest.mark.long
def test_of_a_sharded_model_only_the_needed_files_are_fetched(hub: Hub, sharded: Path, tmp_path: Path) -> None:
    hub.models["org/name"] = {"main": sharded}
    done = ask(hub, tmp_path / "home", "org/name", str(tmp_path / "out"), "--layers", "2", fresh=True)
    assert done.returncode == 0, done.stderr
    is_prefix(tmp_path / "out", sharded)
    where = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {where[name] for name in where if ".layers.2." not in name and ".layers.3." not in name}
    assert needed < set(where.values())
    assert {name for name in hub.fetched() if name.endswith(".safetensors")} == needed


@pytest.mark.long
def test_single_file_and_again_from_the_cache(hub: Hub, reference_folder: Path, tmp_path: Path) -> None:
    hub.models["org/name"] = {"main": reference_folder}
    done = ask(hub, tmp_path / "home", "org/name", str(tmp_path / "out"), "--layers", "2")
    assert done.returncode == 0, done.stderr
    is_prefix(tmp_path / "out", reference_folder)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    hub.log.clear()
    done = ask(hub, tmp_path / "home", "org/name", str(tmp_path / "offline"), "--layers", "2", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert hub.log == []
    nowhere = Hub(url="http://127.0.0.1:9")  # the port of a service that discards everything: nobody listens
    done = ask(nowhere, tmp_path / "home", "org/name", str(tmp_path / "unreachable"), "--layers", "2")
    assert done.returncode == 0, done.stderr
    for folder in ("offline", "unreachable"):
        assert weights(tmp_path / folder) == weights(tmp_path / "out")
    line = refusal(ask(nowhere, tmp_path / "other", "org/name", str(tmp_path / "no"), "--layers", "2"), tmp_path / "no")
    assert "the hub cannot be reached" in line


@pytest.mark.long
def test_a_sharded_model_is_not_whole_in_the_cache(hub: Hub, sharded: Path, tmp_path: Path) -> None:
    """Offline, blocks whose files were never fetched are missed in a line that names the file."""
    hub.models["org/name"] = {"main": sharded}
    assert ask(hub, tmp_path / "home", "org/name", str(tmp_path / "out"), "--layers", "2").returncode == 0
    out = tmp_path / "more"
    line = refusal(ask(hub, tmp_path / "home", "org/name", str(out), "--layers", "4", HF_HUB_OFFLINE="1"), out)
    assert ".safetensors" in line


@pytest.mark.long
def test_revision(hub: Hub, reference_folder: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig.from_pretrained(reference_folder)).save_pretrained(branch)
    for file in reference_folder.glob("tokenizer*"):
        (branch / file.name).write_bytes(file.read_bytes())
    hub.models["org/name"] = {"main": reference_folder, "step-9": branch}
    for revision in ("step-9", _commit("org/name", branch)):
        out = tmp_path / revision
        done = ask(hub, tmp_path / "home", "org/name", str(out), "--layers", "2", "--revision", revision)
        assert done.returncode == 0, done.stderr
        is_prefix(out, branch)
    out = tmp_path / "no"
    line = refusal(ask(hub, tmp_path / "home", "org/name", str(out), "--revision", "step-8"), out)
    assert "no revision 'step-8'" in line


@pytest.mark.long
def test_gated(hub: Hub, reference_folder: Path, tmp_path: Path) -> None:
    hub.models["org/name"] = {"main": reference_folder}
    hub.gated.add("org/name")
    out = tmp_path / "out"
    for variables in ({}, {"HF_TOKEN": "hf_wrong"}):
        line = refusal(ask(hub, tmp_path / "home", "org/name", str(out), "--layers", "2", **variables), out)
        assert "gated" in line
        assert "HF_TOKEN" in line
    done = ask(hub, tmp_path / "home", "org/name", str(out), "--layers", "2", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    is_prefix(out, reference_folder)


@pytest.mark.long
def test_what_is_not_there(hub: Hub, sharded: Path, tmp_path: Path) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    assert "no such model on the hub" in refusal(ask(hub, home, "org/other", str(out)), out)
    lost = sorted(sharded.glob("*.safetensors"))[0]
    lost.unlink()
    hub.models["org/name"] = {"main": sharded}
    assert lost.name in refusal(ask(hub, home, "org/name", str(out), "--layers", "2"), out)
    for file in sharded.glob("*.safetensors*"):
        file.unlink()
    assert "org/name" in refusal(ask(hub, tmp_path / "fresh", "org/name", str(out)), out)
    (sharded / "config.json").unlink()
    assert "no config.json" in refusal(ask(hub, tmp_path / "bare", "org/name", str(out)), out)


@pytest.mark.long
def test_a_model_that_has_only_a_bin_file(hub: Hub, reference_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for file in reference_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save(AutoModelForCausalLM.from_pretrained(reference_folder).state_dict(), folder / "pytorch_model.bin")
    hub.models["org/name"] = {"main": folder}
    done = ask(hub, tmp_path / "home", "org/name", str(tmp_path / "out"), "--layers", "2")
    assert done.returncode == 0, done.stderr
    is_prefix(tmp_path / "out", reference_folder)
