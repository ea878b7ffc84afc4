"""What many tests share: a small text, a tokenizer learnt from it, tiny random models, the program as a process."""

import gc
import json
import logging
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401 (before gc.freeze, as it looks for referrers of its random states when it is imported)
import pytest
import yaml

from inheritune.runlog import logger

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach out
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run side by side; threads would fight over the cores
os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # where a test has two, the one that waits leaves its core to others

os.environ["INHERITUNE_CACHE"] = os.devnull  # no folder: what one test measures is not remembered in another

# loguru, which datatrove sets up anew for every task, asks for these paths each time: half the time of preparing a small text
sysconfig.get_path = cache(sysconfig.get_path)

collect_ignore = [] if "INHERITUNE_COMPAT_PYTHON" in os.environ else ["compat"]  # it needs another environment
sys.path.append(str(Path(__file__).parent / "arch"))  # makers of tokenizers and files


def pytest_collection_finish() -> None:
    """Take torch, transformers and the tests themselves out of garbage collection, which else walks them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are filled and not rendered, which takes a third of a tiny run, but where `RENDERS` or the folder says so."""
    if getattr(request.module, "RENDERS", False) or request.path.parent.name in ("report", "cli"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inheritune.report.figures._rendered", lambda figure, axes: ("<svg></svg>", b"", []))
        yield


SENTENCE = "the small model keeps some of the large one's blocks and learns again what it has lost while it reads"


def on_gpu() -> Any:
    """The marks of a test that needs a GPU."""
    import torch

    return [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


Said = Callable[[list[str | Path]], tuple[int, list[str]]]
Answer = Callable[[str, str, Any], tuple[int, dict[str, str], bytes]]


@contextmanager
def web_server(answer: Answer) -> Iterator[str]:
    """The address of a web server of this machine: `answer` gets method, path and headers, gives status, headers, body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = answer(self.command, self.path, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def make_text(folder: Path, documents: int = 60, words: int = 120) -> Path:
    """A folder of different documents with words in an order that can be learnt."""
    folder.mkdir(parents=True, exist_ok=True)
    given = SENTENCE.split()
    for number in range(documents):
        line = [given[(number * 7 + place * (1 + number % 3)) % len(given)] for place in range(words)]
        (folder / f"{number:03d}.txt").write_text(f"Document {number}. " + " ".join(line) + ".\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def tokenizer(text: Path) -> Any:
    from inheritune.data import train_tokenizer

    return train_tokenizer((file.read_text(encoding="utf-8") for file in sorted(text.iterdir())), 300)


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny random Llama of 4 blocks with its tokenizer, as a Hugging Face checkpoint."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("reference")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_recipe(text: Path, reference: Path | None = None) -> dict[str, Any]:
    """A recipe that takes a few seconds; without `reference` it makes one first."""
    made = {
        "train": {
            "model": {"model_type": "gpt2", "n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 32},
            "tokenizer": {"vocabulary": 300},
            "length": "12 steps",
        }
    }
    return {
        "reference": str(reference) if reference else made,
        "data": {"sources": [{"path": str(text)}], "validation": "600 tokens"},
        "inherit": {"layers": 1, "choose": "first"},
        "train": {
            "length": "10 steps",
            "batch": "4 sequences",
            "sequence_length": 16,
            "micro_batch": 2,
            "optimizer": {"learning_rate": 0.003},
            "checkpoint": {"every": "3 steps"},
        },
        "grow": {"by": 1, "max_layers": 2},
        "recovery": "paper",
        "controls": ["random"],
        "evaluate": {"every": "4 steps", "sequences": 4, "analyze": False, "prompts": []},
    }


@pytest.fixture
def write_recipe(tmp_path: Path) -> Any:
    """Writes a recipe given as a mapping and returns its path."""

    def write(tree: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return path

    return write


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a saved model, by name."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="numpy") as opened:
            found |= {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118 (not a dict)
    return found


def stored_tensors(folder: Path) -> Any:
    """The tensors of every safetensors file in a folder, by name, as torch reads them."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def heard(hear: Callable[[str], object]) -> Iterator[None]:
    """Inside, `hear` gets each line of the log, and may raise."""
    handler, before = logging.Handler(), logger.level
    handler.emit = lambda record: hear(record.getMessage())  # type: ignore[method-assign,assignment,return-value]
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run the program; the status, and the lines that begin with `error: ` without that."""
    from inheritune.cli import main

    def run(words: list[str | Path]) -> tuple[int, list[str]]:
        status = main([str(word) for word in words])
        lines = capsys.readouterr().err.splitlines()
        return status, [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]

    return run


def prepare_words(text: Path, reference: Path, out: Path, *more: str) -> list[str | Path]:
    return ["prepare", text, "--tokenizer", reference, "--validation", "600 tokens", "--out", out, "--quiet", *more]
