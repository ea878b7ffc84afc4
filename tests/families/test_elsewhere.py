"""Every supported family's target in a process that cannot import this project: plain transformers loads it exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import document
import parity
import pytest
from forward import logits_of, some_tokens
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import silence_libraries
from inheritune.errors import InputError
from inheritune.inheritance import inherit

_CHOICES = ([0, 2, 5], [0, 1, 2], [0, 1, 2, 3, 4])

# What the other process does. It loads each model, compares its logits bit for bit, and prints who failed and how.
_CODE = """
import json, sys
sys.modules["inheritune"] = None
import torch
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging
logging.set_verbosity_error(); logging.disable_progress_bar()
torch.set_num_threads(1)
wrong = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = load_file(folder / "expected" / "logits.safetensors")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder / "model", output_loading_info=True)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
        with torch.no_grad():
            logits = model.eval()(expected["tokens"], use_cache=False).logits
        if any(info.values()) or not torch.equal(logits, expected["logits"]):
            wrong[folder.name] = f"{info}, apart by {(logits - expected['logits']).abs().max()}"
    except Exception as error:
        wrong[folder.name] = repr(error)
print(json.dumps(wrong))
"""


def check_elsewhere(kinds: list[str], place: Path) -> None:
    """Save a target of each of `kinds` with its logits, and compare in a process without this project."""
    silence_libraries()
    tokens_BT = some_tokens()
    for kind in kinds:
        for kept in _CHOICES:
            try:
                target = inherit(parity.reference_of(kind), kept, out=place / kind / "model")
            except InputError:
                continue
            break
        else:
            raise AssertionError(f"{kind}: none of {_CHOICES} can be inherited")
        (place / kind / "expected").mkdir()
        logits = logits_of(target, tokens_BT).contiguous()
        save_file({"tokens": tokens_BT, "logits": logits}, place / kind / "expected" / "logits.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CODE, str(place)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
def test_all_families(tmp_path: Path) -> None:
    kinds = [kind for kind in CAUSAL if document.standing(kind)[0] == "yes"]
    assert len(kinds) >= 120
    check_elsewhere(kinds, tmp_path)
