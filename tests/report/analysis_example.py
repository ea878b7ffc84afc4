"""Files of an analysis, made up with a shape like that of real models."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.report import write_report
from inheritune.results import AnalyzedModel


def typed(model: dict[str, Any]) -> AnalyzedModel:
    return AnalyzedModel.model_validate(model)


def figure(mean: float, se: float | None) -> dict[str, float | None]:
    return {"mean": float(mean), "se": se}


def make_block(
    random: np.random.Generator, place: float, heads: int, taus: list[float], se: float | None
) -> dict[str, Any]:
    """A block at `place` of the depth, 0 to 1: ranks fall towards the end, the first block and the last weigh most."""
    fall = math.exp(-((place / 0.75) ** 4) * 3.5)
    ranks = 1 + random.gamma(1.2, 12, heads) * fall * (random.random(heads) > 0.3)
    made = [
        {
            "rank": {f"{tau:g}": figure(1 + (rank - 1) * tau / taus[0], se) for tau in taus},
            "mass": figure(1 + (rank - 1) * 1.4, se), "sink": figure(min(1, 1 / rank + 0.02), se),
            "entropy": figure(min(4.0, math.log(rank) + 0.2), se), "collapsed": bool(rank < 1.5),
        }
        for rank in ranks
    ]  # fmt: skip
    top = {
        f"{tau:g}": max((head["rank"][f"{tau:g}"] for head in made), key=lambda found: found["mean"]) for tau in taus
    }
    ends = 0.5 * math.exp(-30 * place) + 0.3 * math.exp(-30 * (1 - place))
    return {
        "attention": {
            "heads": made, "max_rank": top, "lazy": top[f"{taus[0]:g}"]["mean"] < 2,
            "avg_mass": figure(np.mean([head["mass"]["mean"] for head in made]), se),
        },
        "influence": figure(0.02 + ends + 0.02 * random.random(), se and 0.002),
        "skipped": figure(0.1 + 12 * ends + 0.15 * random.standard_normal(), se and 0.02),
        "depth_loss": figure(2.9 + 9 * (1 - place) ** 1.5, se and 0.1),
        "gradients": {"query": 0.002 + 0.3 * fall * random.random(), "key": 0.003 + 0.4 * fall * random.random()},
    }  # fmt: skip


def make_model(
    name: str, layers: int = 6, heads: int = 4, taus: list[float] | None = None, se: float | None = 0.3, seed: int = 0
) -> dict[str, Any]:
    random, taus = np.random.default_rng(seed), taus or [0.9]
    blocks = [
        {"block": number} | make_block(random, number / max(layers - 1, 1), heads, taus, se) for number in range(layers)
    ]
    lazy = [block["block"] for block in blocks if block["attention"]["lazy"]]
    made = [head for block in blocks for head in block["attention"]["heads"]]
    return {
        "name": name, "path": f"models/{name}", "layers": layers, "parameters": 134515008, "loss": figure(2.9, se and 0.1),
        "no_attention": None, "blocks": blocks,
        "angular_distance": [
            {"blocks": k, "distances": [figure(0.05 + 0.9 * (k / layers) ** 0.7 * (0.3 + 0.2 * abs(start - layers / 2) / layers), se and 0.01)
                                        for start in range(layers - k + 1)]}
            for k in range(1, layers + 1)
        ],
        "lazy_layers": lazy, "lazy_groups": [lazy] if lazy else [], "collapsed_share": sum(head["collapsed"] for head in made) / len(made),
        "maps": None, "selection": None,
        "seconds": {"load": 2.1, "attention": 12.0, "rank": 4.0, "blocks": 1.0, "losses": 9.0, "gradients": 1.0},
    }  # fmt: skip


def without_attention(model: dict[str, Any], blocks: list[int], reason: str | None = None) -> dict[str, Any]:
    for number in blocks:
        model["blocks"][number]["attention"] = None
    if reason:
        model |= {"no_attention": reason, "lazy_layers": None, "lazy_groups": None, "collapsed_share": None}
    else:
        model["lazy_layers"] = [block for block in model["lazy_layers"] if block not in blocks]
        model["lazy_groups"] = [model["lazy_layers"]]
    return model


def with_selection(model: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    left = [number for number in range(model["layers"]) if number not in kept]
    dropped = [{"block": block, "increase": 0.2 + 0.02 * n, "loss": 3.1 + 0.2 * n} for n, block in enumerate(left)]
    reason = "dropped " + "; ".join(f"{found['block']}: +{found['increase']:.2f}" for found in dropped)
    model["selection"] = {
        "choose": "auto", "blocks": kept, "dropped": dropped, "lazy_layers": [], "reason": reason, "precision": "float32",
        "calibration": {"sequences": 12, "sequence_length": 256}, "recovery_steps": 0, "loss": 2.9, "trials": 9, "seconds": 1.0,
    }  # fmt: skip
    return model


def make_matrix(random: np.random.Generator, length: int, sink: float) -> np.ndarray:
    """Causal attention (length, length) with `sink` more on the first position."""
    scores = random.standard_normal((length, length)) + np.eye(length) * 3
    scores[:, 0] += sink
    weights = np.tril(np.exp(scores))
    return weights / weights.sum(1, keepdims=True)


def facts_of(
    models: list[dict[str, Any]], taus: list[float] | None = None, sequences: int = 100, length: int = 100
) -> dict[str, Any]:
    text = {
        "source": "licences/",
        "sequences": sequences,
        "sequence_length": length,
        "loss_sequences": min(8, sequences),
    }
    return {"format": 1, "text": text, "tau": taus or [0.9], "collapsed_below": 1.5, "models": models}


def write(
    folder: Path, models: list[dict[str, Any]], taus: list[float] | None = None, sequences: int = 100, length: int = 100
) -> str:
    """Write analysis.json and a map for each model that has lazy layers; the page that is made of them."""
    for number, model in enumerate(models):
        if model["lazy_layers"]:
            random = np.random.default_rng(number)
            maps = {kind: make_matrix(random, length, sink) for kind, sink in (("potent", 0.0), ("lazy", 9.0))}
            np.savez(folder / f"maps-{number}.npz", **maps)
            model["maps"] = {
                "file": f"maps-{number}.npz", "potent": {"block": 0, "head": 3, "rank": 30.2},
                "lazy": {"block": model["lazy_layers"][0], "head": 1, "rank": 1.1},
            }  # fmt: skip
    facts = facts_of(models, taus, sequences, length)
    (folder / "analysis.json").write_text(json.dumps(facts))
    return write_report(folder).read_text()
