"""How much `choose: auto` depends on its calibration text: the same choice on several texts and parts of them.

    python benchmarks/choice_stability.py MODEL TEXT ... --out FOLDER --layers 15 [--draws 3] ...

Each file TEXT is divided into equal parts. Each but the last gives one choice; the choices of all texts are judged
without training on the last part of each. Prints the choices and how many blocks each pair has in common. Resumes where
it was stopped.
"""

import argparse
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

import inheritune
from inheritune import runtime as rt
from inheritune.analysis import Partial, choose
from inheritune.arch import load_tokenizer, ready
from inheritune.corpus import sample_text
from inheritune.recipe import Inherit, Reference, check
from inheritune.report import spans

Choice = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--calibration", default="3072 tokens")
    parser.add_argument("--recovery", default="1024 tokens")
    parser.add_argument("--judged", type=int, default=16, help="sequences of 256 tokens of each text")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    choices: dict[str, Choice] = {}
    for text in given.texts:
        for draw in range(given.draws):
            name = f"{text.stem} {draw + 1}"
            choices[name] = measured(given, text, draw, given.out / f"{text.stem}-{draw + 1}.json")
            print(row(name, choices[name]), flush=True)
    show(choices, [text.stem for text in given.texts])


def part(text: Path, number: int, of: int, folder: Path) -> Path:
    """A file with one of `of` equal parts of a text."""
    whole = text.read_text(encoding="utf-8")
    file = folder / f"{text.stem}-part-{number + 1}.txt"
    file.write_text(whole[len(whole) * number // of : len(whole) * (number + 1) // of], encoding="utf-8")
    return file


def measured(given: argparse.Namespace, text: Path, draw: int, file: Path) -> Choice:
    found: Choice = json.loads(file.read_text()) if file.exists() else chosen(given, text, draw, file)
    if "untrained" not in found:
        found["untrained"] = judged(given, found["blocks"])
        file.write_text(json.dumps(found))
    return found


def chosen(given: argparse.Namespace, text: Path, draw: int, file: Path) -> Choice:
    fields = {
        "layers": given.layers, "choose": "auto", "calibration": given.calibration, "recovery": given.recovery,
    }  # fmt: skip
    calibration, drops = part(text, draw, given.draws + 1, given.out), file.with_suffix(".drops.json")
    began = time.process_time()
    choice = choose(given.model, check(Inherit, fields, "choices"), text=calibration, progress=drops)
    found = {
        "blocks": choice.blocks, "dropped": [one.block for one in choice.dropped], "trials": choice.trials,
        "processor_seconds": round(time.process_time() - began),
    }  # fmt: skip
    file.write_text(json.dumps(found))
    drops.unlink()
    return found


def judged(given: argparse.Namespace, blocks: list[int]) -> dict[str, float]:
    """The loss of the blocks on the last part of each text."""
    losses, runtime = {}, rt.start("auto")
    half = runtime.device == "cpu" and runtime.quick_precision() != "float32"
    with ready(inheritune.inherit(given.model, blocks), None, runtime.device, "auto") as (target, _):
        for text in given.texts:
            held_out = part(text, given.draws, given.draws + 1, given.out)
            rows = sample_text([held_out], load_tokenizer(Reference(path=given.model)), given.judged, 256)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                sums = [Partial(target, examples).whole.sum() for _, examples in rows.batches(8)]
            losses[text.stem] = float(sum(sums)) / len(rows)
    return losses


def row(name: str, choice: Choice) -> str:
    losses = " | ".join(f"{loss:.3f}" for loss in choice["untrained"].values())
    return f"| {name} | {spans(choice['blocks'])} | {losses} | {choice['trials']} | {choice['processor_seconds']} |"


def show(choices: dict[str, Choice], texts: list[str]) -> None:
    print(f"| text | blocks | {' | '.join(f'untrained, {text}' for text in texts)} | trials | seconds of a processor |")
    print("| --- " * (len(texts) + 4) + "|")
    for name, choice in choices.items():
        print(row(name, choice))
    for (one, first), (other, second) in combinations(choices.items(), 2):
        print(f"{one}, {other}: {len({*first['blocks']} & {*second['blocks']})} blocks in common")


if __name__ == "__main__":
    main()
