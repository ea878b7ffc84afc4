"""The commands that are killed: tiny, each with its inputs and with what it makes."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import make_text, tiny_recipe
from tests.tiny_suites import make_reference, tiny_suite

_TAUGHT = {"train": {"distillation": {"top_k": 8, "outputs": "stored"}}}
_ARMS: list[dict[str, Any]] = [
    {"name": "stacking", "start": "stacking"},
    {"name": "distilled", "start": "inherit", **_TAUGHT},
    {"name": "taught", "start": "random", **_TAUGHT},
    {
        "name": "grown", "allow_unequal": "rounds",
        "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 2, "until": "max_layers"}},
    },
]  # fmt: skip
_FILTERS = "[{filter: length, min_words: 20}, exact_duplicates, near_duplicates]"


@dataclass(frozen=True)
class Job:
    """A command, run in a folder of its own. `made` is what it makes there; `resumes`: a second start is success."""

    name: str
    words: tuple[str, ...]
    made: tuple[str, ...]
    resumes: bool = True
    set_up: Callable[[Path], object] = lambda folder: None
    first: Callable[[], object] | None = None
    """Called in the process before the command; the real command line makes the same only where there is none."""


def make_small_tasks() -> None:
    """Many tasks, parts and shards of a small text."""
    from inheritune.corpus.building import preparation, writing

    preparation._TASK_BYTES, preparation._PART_BYTES, writing.SHARD_TOKENS = 16_000, 5_000, 3_000


def draw_nothing() -> None:
    """Figures without content, which otherwise take longer than all else; the job `report` has real ones."""
    from inheritune.report import heat_maps, line_charts
    from inheritune.report.figures import Picture

    for module in (line_charts, heat_maps):
        module.draw = lambda name, *given, **more: Picture(name, "<svg></svg>", b"a figure")


def make_inputs(place: Path) -> None:
    """What the jobs read: a text with near duplicates, a model with dropout, recipes, a suite, data
    that is prepared or in token files, and a finished run.
    """
    from inheritune.cli import main
    from inheritune.data import train_tokenizer

    text, draw = make_text(place / "text", documents=40), random.Random(0)
    for number in range(6):
        words = (text / f"{number:03d}.txt").read_text(encoding="utf-8").split()
        words[draw.randrange(20, len(words))] = "other"
        (text / f"near-{number}.txt").write_text(" ".join(words), encoding="utf-8")
    tokenizer = train_tokenizer((file.read_text(encoding="utf-8") for file in sorted(text.iterdir())), 300)
    config = make_reference(place / "model", tokenizer, blocks=4) / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"attn_pdrop": 0.0', '"attn_pdrop": 0.1'), "utf-8")
    made = tiny_recipe(text) | {"grow": {"by": 1, "until": "max_layers", "max_layers": 2}}
    taught = tiny_recipe(text, place / "model") | {"grow": None, "controls": ["random", "reference-continued"]}
    taught["train"] |= _TAUGHT["train"] | {"attention": "document"}
    nano = {"train": [str(place / "nano" / "train.bin")], "validation": [str(place / "nano" / "val.bin")]}
    taught["data"] = {"tokens": nano}
    taught["inherit"] = {"layers": 2, "choose": "auto", "calibration": "64 tokens", "recovery": "64 tokens"}
    taught["evaluate"] |= {"analyze": True, "prompts": ["Document"], "new_tokens": "4 tokens"}
    trees = {"made": made, "taught": taught, "suite": tiny_suite(text, None, _ARMS)}
    for name, tree in trees.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    draw_nothing()
    model, validation = ["--tokenizer", str(place / "model")], ["--validation", "600 tokens"]
    for words in (
        [
            "prepare",
            str(text),
            *model,
            *validation,
            "--out",
            str(place / "data"),
            "--nanogpt",
            str(place / "nano"),
            "--quiet",
        ],
        ["run", str(place / "made.yaml"), "--out", str(place / "run"), "--quiet"],
    ):
        if main(words):
            raise RuntimeError(f"the inputs of the attack could not be made: inheritune {' '.join(words)}")
    shutil.rmtree(place / "run" / "report")


def list_jobs(place: Path) -> Sequence[Job]:
    """All jobs, with their inputs in `place`."""

    def copy_run(folder: Path) -> None:
        shutil.copytree(place / "run", folder / "run")

    prepare = ("prepare", str(place / "text"), "--tokenizer", str(place / "model"), "--validation", "300 tokens")
    prepare += ("--out", "out")
    chosen = ("--choose", "auto", "--text", str(place / "text"), "--calibration", "64 tokens")
    model, best = str(place / "model"), str(place / "run" / "rounds" / "1-1layers" / "checkpoints" / "best")
    train = ("--data", str(place / "data"), "--length", "20 steps", "--sequence-length", "16", "--batch", "4 sequences")
    train += ("--micro_batch=2", "--evaluate-every", "5 steps", "--checkpoint.every=1 steps")
    return [
        Job("run", ("run", str(place / "made.yaml"), "--out", "out"), ("out",), first=draw_nothing),
        Job("taught run", ("run", str(place / "taught.yaml"), "--out", "out"), ("out",), first=draw_nothing),
        Job("compare", ("compare", str(place / "suite.yaml"), "--out", "out"), ("out", "shared"), first=draw_nothing),
        Job(
            "prepare",
            (*prepare, f"--data.filters={_FILTERS}", "--data.workers=1", "--nanogpt", "nano"),
            ("out", "nano"),
            first=make_small_tasks,
        ),
        Job(
            "prepare by workers",
            (*prepare, "--size", "3K tokens", "--data.filters=[exact_duplicates]", "--data.workers=2"),
            ("out",),
            first=make_small_tasks,
        ),
        Job("train", ("train", model, "out", *train), ("out",)),
        Job("inherit", ("inherit", model, "out", "--layers", "2", "--submodules", "attention"), ("out",), False),
        Job("inherit chosen", ("inherit", model, "out", "--layers", "2", *chosen), ("out",), False),
        Job("export", ("export", best, "out"), ("out",), False),
        Job("report", ("report", "run"), ("run/report",), set_up=copy_run),
    ]
