"""A run's folder, made up: what a run of a reference of six blocks and two rounds leaves, whole or up to a stage."""

import json
from pathlib import Path
from typing import Any

import yaml
from analysis_example import facts_of, make_model

HOSTILE = '</pre><script>alert(1)</script> $x^2$ a|b & "c"'
FLOPS = 6000
"""A token's."""


def save(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def metrics(folder: Path, first: float, last: float, steps: int = 40) -> None:
    """Losses that fall on a straight line; a validation loss every ten steps."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "val_loss": first}]
    for step in range(1, steps + 1):
        loss = first + (last - first) * step / steps
        record = {"step": step, "tokens": 100 * step, "loss": loss, "tokens_per_second": 5000.0}
        records.append(record | ({"val_loss": loss} if step % 10 == 0 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def figures(layers: int, loss: float, trained: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": "training", "layers": layers, "parameters": 1000 * layers, "val_loss": loss, "val_loss_se": 0.01, "validation_sequences": 3,
        "validation_documents": 30, "cluster_losses": [loss - 0.1, loss, loss + 0.1], "cluster_tokens": [16] * 3,
        "curve_loss": loss - 0.05, "wall_seconds": 9.0, "version": 2,
    }  # fmt: skip
    if trained:
        found |= {
            "tokens": 4000, "steps": 40, "epochs": 1.0, "flops": 4000 * FLOPS, "left_over_tokens": 0,
            "tokens_per_second": 5000.0, "seconds": 0.8, "model": "model",
        }  # fmt: skip
    return found


def judged(layers: int, loss: float) -> dict[str, Any]:
    return figures(layers, loss) | {
        "gap": loss - 3.0,
        "gap_se": 0.01,
        "gap_upper": loss - 3.0 + 0.02,
        "decision": "matched" if loss < 3.0 else "behind",
        "blocks": list(range(layers)),
    }


def make_comparison(folder: Path, arms: int = 3) -> Path:
    """A finished comparison of `arms` arms (0: killed before the first), and a reference that was trained for it."""
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text("arms: []\n")
    if not arms:
        return folder
    reference = figures(6, 3.0) | {"name": "models/large", "folder": "../shared/reference"}
    metrics(folder.parent / "shared" / "reference", 6.0, 3.0)
    save(folder.parent / "shared" / "reference" / "evaluation.json", reference)
    found = []
    for number in range(arms):
        name, loss = f"arm {number}", 2.9 + number / 10
        metrics(folder / "arms" / f"{number}", 5.0, loss)
        arm = judged(3, loss) | {
            "name": name,
            "start": "inherit",
            "state": "finished",
            "failures": [],
            "allow_unequal": None,
        }
        best = {"best_val_loss": loss, "best_val_loss_se": 0.01, "flops_to_match": None}
        stage_keys = ("layers", "parameters", "tokens", "steps", "flops", "seconds", "val_loss")
        stage = {key: arm[key] for key in stage_keys} | {"folder": "."}
        run = judged(3, loss) | best | {"seed": 1, "folder": f"arms/{number}", "best_step": 40, "stages": [stage]}
        arm |= best | {"equal": True, "val_loss_margin_seeds": None, "best_val_loss_margin_seeds": None, "runs": [run]}
        arm["verdict"] = arm["decision"]
        found.append(arm)
    found.append({"name": "broken", "start": "random", "state": "failed", "failures": [{"seed": 1, "error": "no room"}],
                  "allow_unequal": None, "verdict": "failed"})  # fmt: skip
    save(
        folder / "comparison.json",
        {"version": 2, "finished": True, "reference": reference, "arms": found, "budget_tokens": 4000, "seeds": [1], "tolerance": 0.0,
         "validation_sequences": 3, "validation_documents": 30, "curve_sequences": 2, "published": None},
    )  # fmt: skip
    return folder


TASKS: dict[str, Any] = {
    "format": 1, "text": {"source": "validation", "sequences": 3, "sequence_length": 16, "tokens": 48, "bytes": 200},
    "harness": {"version": "0.4.13", "limit": None},
    "models": [
        {"name": "reference", "path": "models/large", "parameters": 6000, "layers": 6, "val_loss": 3.0, "val_loss_se": 0.01, "bits_per_byte": 1.1, "bits_per_byte_se": None,
         "tasks": {"piqa": {"metric": "acc", "shots": 0, "value": 0.75, "se": 0.01}}},
        {"name": "target", "path": "rounds/2-4layers/model", "parameters": 4000, "layers": 4, "val_loss": 2.9, "val_loss_se": 0.01, "tasks": {"piqa": {"metric": "acc_norm", "shots": 5, "value": 0.74, "se": None}}},
    ],
    "published": [{"name": "OpenLLaMA-3B", "source": "arXiv 2404.08634", "tasks": {"piqa": {"metric": "acc", "shots": 0, "value": 0.7497, "se": None}}}],
}  # fmt: skip


def make_run(folder: Path, upto: str = "all", name: str = "models/large", seed: int = 0) -> Path:
    """A run killed behind a stage: begun, reference, training (of round 1), round 1, controls, or none: all."""
    stages = ("begun", "reference", "training", "round 1", "controls", "all")
    done = stages.index(upto)
    recipe = {"reference": {"path": name}, "train": {"sequence_length": 16}, "seed": 1,
              "evaluate": {"every": "10 steps", "sequences": 2, "tolerance": 0.0},
              "controls": ["random", "reference-continued"]}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    start = {"command": ["/somewhere/inheritune/__main__.py", "run", "my recipe.yaml"], "versions": {"python": "3.11.7", "torch": "2.13.0"},
             "machine": "Linux", "device": "cpu", "threads": 2, "processes": 1, "seed": 1}  # fmt: skip
    save(folder / "manifest.json", {"starts": [start, start], "lineage": {"data": {"validation-0000.bin": "ab" * 32}}})
    if done >= 1:
        save(folder / "reference" / "evaluation.json", figures(6, 3.0, trained=False))
    rounds = {"1-2layers": judged(2, 3.2), "2-4layers": judged(4, 2.9)}
    if done >= 2:
        metrics(folder / "rounds" / "1-2layers", 5.0, 3.2)
    for place, found in list(rounds.items())[: max(0, done - 2)] if done < 4 else rounds.items():
        metrics(folder / "rounds" / place, 5.0, found["val_loss"])
        save(folder / "rounds" / place / "evaluation.json", found)
    random = judged(4, 3.4) | {"over_result": 0.5, "over_result_se": 0.02, "over_result_interval": [0.46, 0.54]}
    if done >= 4:
        metrics(folder / "controls" / "random-4layers", 6.0, 3.4)
        save(folder / "controls" / "random-4layers" / "evaluation.json", random)
    models = [found | {"model": f"rounds/{place}/model"} for place, found in rounds.items()]
    summary = {
        "version": 2, "finished": True, "reference": {"name": name, **figures(6, 3.0, trained=False)}, "rounds": models,
        "controls": [random | {"name": "random", "model": "controls/random-4layers/model"}],
        "result": models[1], "tolerance": 0.0, "validation_sequences": 3, "validation_documents": 30, "wall_seconds": 75.0,
        "peak_memory_bytes": 2 * 10**9,
    }  # fmt: skip
    if upto in ("round 1", "controls"):
        summary |= {"finished": False, "controls": [], "rounds": models[: done - 2], "result": models[done - 3]}
    if done >= 3:
        save(folder / "summary.json", summary)
    if upto == "all":
        continuations = [
            {"name": one, "continuations": [f"{one} goes on", "\n" * 40 + "then"]} for one in ("reference", "target")
        ]
        save(folder / "samples.json", {"prompts": ["Once", HOSTILE], "models": continuations, "new_tokens": 48})
        save(folder / "tasks.json", TASKS)
        models = [make_model("large", 6, seed=seed), make_model("model", 4, seed=seed + 1)]
        save(folder / "analysis" / "analysis.json", facts_of(models, length=16))
    return folder
