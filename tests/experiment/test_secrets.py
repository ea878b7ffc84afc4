"""A run whose text comes from an address with credentials: nobody reads them but who can read recipe.yaml."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import read_json, tiny_recipe
from inheritune.card import prepare_upload
from inheritune.cli import main

SECRETS = ("PASSWORD", "QUERYTOKEN", "hf_ThisIsNotToBeReadByAnybody")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def addresses(text: Path) -> Iterator[list[str]]:
    """Where a server of this machine gives the files of the text, whatever the query."""
    folder = text if text.is_dir() else text.parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.txt"))]
    yield [f"http://user:PASSWORD@127.0.0.1:{server.server_port}/{name}?token=QUERYTOKEN" for name in names]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.long
def test_credentials_and_folders_of_a_run_stay_in_its_recipe(
    addresses: list[str], text: Path, reference_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tree = tiny_recipe(text, reference_folder) | {"controls": [], "grow": None, "track": ["tensorboard"]}
    tree["data"]["sources"] = [{"path": address} for address in addresses]
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(tree))
    prompt = f"--evaluate.prompts=[say HF_TOKEN={SECRETS[2]}]"
    words = ["run", str(recipe), "--out", str(out), prompt]
    monkeypatch.setattr("sys.argv", ["inheritune", *words])
    assert main(words) == 0
    said = "".join(capfd.readouterr())
    assert not [secret for secret in SECRETS if secret in said]
    for file in out.rglob("*"):
        if file.is_file() and file not in (out / "recipe.yaml", out / "samples.json"):
            content = file.read_bytes().decode(errors="replace")
            assert not [secret for secret in SECRETS if secret in content], file
    model = out / read_json(out / "summary.json")["result"]["model"]
    for name, _ in prepare_upload(model, "org/name").files:
        assert str(tmp_path).encode() not in (model / name).read_bytes(), name
        assert str(reference_folder).encode() not in (model / name).read_bytes(), name
    for page in ("index.html", "report.md"):
        assert str(reference_folder.parent) not in (out / "report" / page).read_text()
    assert "[redacted]@127.0.0.1" in (out / "report" / "index.html").read_text()
    assert "[redacted]@127.0.0.1" in (model / "README.md").read_text()
    bits = (model / "model.safetensors").read_bytes()
    (out / "summary.json").unlink()
    assert main(words) == 0  # it can be resumed
    assert (model / "model.safetensors").read_bytes() == bits
