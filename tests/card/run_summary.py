"""A run's summary.json, made up."""

import json
from pathlib import Path
from typing import Any


def write_summary(folder: Path, model: Any, finished: bool = True) -> None:
    """summary.json of a run without rounds whose result is `model`."""
    size = {"layers": 2, "parameters": 9, "val_loss": 3.0, "val_loss_se": None}
    summary = {
        "version": 2, "finished": finished, "reference": {"name": "large", **size}, "rounds": [], "controls": [], "tolerance": 0.0,
        "result": {**size, "gap": 0.0, "gap_se": None, "gap_upper": None, "decision": "undecided", "model": model},
        "validation_sequences": 3, "validation_documents": 1,
        "wall_seconds": 1.0, "peak_memory_bytes": 9,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
