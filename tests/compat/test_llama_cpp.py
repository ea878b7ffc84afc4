""".gguf files of `inheritune export --gguf` in llama.cpp, as node-llama-cpp has it: the ids, the probabilities and the
greedy text of transformers.

`make compat` installs node-llama-cpp and names its folder in INHERITUNE_COMPAT_NODE.
"""

import json
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import randomised
from models import gemma3, smollm2
from test_real_model import check_lm_eval
from test_tokenizers import settle, train
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from inheritune import inherit
from inheritune.arch import load_tokenizer, save_model, silence_libraries
from inheritune.arch.tokenization import PROBES
from inheritune.data import train_tokenizer
from inheritune.recipe import Reference
from processes import program

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

TEXT = Path(__file__).parents[2] / "docs" / "training.md"
PROMPT = "The batch of a training is divided into micro-batches, so that"
STEPS = 16
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # what its template puts without one
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Compared:
    """What llama.cpp said, the largest difference of the likeliest tokens' log-probabilities, and texts with other ids."""

    answer: dict[str, Any]
    apart: float
    other_ids: list[str]
    text: str
    """The greedy text of transformers."""

    @property
    def same_text(self) -> bool:
        return bool(self.answer["text"] == self.text)


def compare(folder: Path, scratch: Path, kind: str = "f32", prompt: str = PROMPT) -> Compared:
    """Export a model's folder and ask llama.cpp and transformers the same."""
    file = scratch / f"{folder.name}-{kind}.gguf"
    done = program("export", folder, file, "--gguf", kind)
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tokenizer(prompt)["input_ids"]
    request: dict[str, Any] = {"texts": [*PROBES, prompt], "prompt": tokens, "steps": STEPS}
    if tokenizer.chat_template:
        request |= {"messages": QUESTION, "system": SYSTEM}
    answer = ask(file, request, scratch)
    with torch.no_grad():
        logs_V = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
    apart = max(abs(float(logs_V[token]) - math.log(share)) for token, share in answer["probabilities"])
    assert answer["bos"] == (tokens[0] if tokens[0] == tokenizer.bos_token_id else None)
    assert answer["eos"] == tokenizer.eos_token_id
    if tokenizer.chat_template:
        assert answer["chat"] == chat(model, tokenizer)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in request["texts"]]
    other = [text for text, ours, theirs in zip(request["texts"], ids, answer["ids"], strict=True) if ours != theirs]
    answer["text"] = tokenizer.decode(answer["made"])
    return Compared(answer, apart, other, tokenizer.decode(generated(model, torch.tensor([tokens]))))


def ask(file: Path, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    command = ["node", str(Path(__file__).with_name("llama.mjs")), str(file.resolve()), str(scratch / "request.json")]
    node = os.environ["INHERITUNE_COMPAT_NODE"]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def generated(model: Any, tokens_BT: torch.Tensor) -> list[int]:
    made = model.generate(tokens_BT, max_new_tokens=STEPS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    return list(made[0, tokens_BT.shape[1] :].tolist())


def chat(model: Any, tokenizer: Any) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    made = model.generate(torch.tensor([tokens]), max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(made[0, len(tokens) :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def trained_tokenizer() -> Any:
    """As a recipe trains one."""
    return train_tokenizer(iter(TEXT.read_text(encoding="utf-8").split("\n\n")), 600)


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory.mktemp("smollm2"))


def test_a_random_model_with_a_trained_tokenizer(trained_tokenizer: Any, tmp_path: Path) -> None:
    """Exactly in f32; f16 and q8_0 are the same file with rounded matrices."""
    silence_libraries()
    config = LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    save_model(randomised(LlamaForCausalLM(config), scale=0.1), trained_tokenizer, tmp_path / "model")
    found = {kind: compare(tmp_path / "model", tmp_path, kind) for kind in ("f32", "f16", "q8_0")}
    for kind, one in found.items():
        print(f"{kind}: log-probabilities at most {one.apart:.4f} apart")
        assert one.other_ids == []
    assert found["f32"].same_text
    assert found["f32"].apart < 1e-3
    assert found["f16"].apart < 0.01
    assert found["f32"].apart < found["q8_0"].apart < 0.1
    sizes = [(tmp_path / f"model-{kind}.gguf").stat().st_size for kind in found]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("kind", "full"), [("gemma3", [4]), ("gemma3", [5]), ("gemma3", [2, 5]), ("gemma2", [3]), ("gemma2", [1, 3, 5])]
)
def test_blocks_that_attend_to_everything(kind: str, full: list[int], tmp_path: Path) -> None:
    """At more positions than a window has, the order of the blocks shows: a file that says another one differs."""
    silence_libraries()
    build, settings = {"gemma3": (Gemma3ForCausalLM, Gemma3TextConfig), "gemma2": (Gemma2ForCausalLM, Gemma2Config)}[
        kind
    ]
    kinds = ["full_attention" if at in full else "sliding_attention" for at in range(6)]
    config = settings(
        vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, query_pre_attn_scalar=16, sliding_window=8, layer_types=kinds, max_position_embeddings=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    train(tmp_path / "tokenizer", add_dummy_prefix=False)
    settle(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(Reference(path=str(tmp_path / "tokenizer")))
    model = randomised(build(config), scale=0.2)
    save_model(model, tokenizer, tmp_path / "model")
    found = compare(tmp_path / "model", tmp_path, prompt=PROMPT * 2)
    print(f"log-probabilities at most {found.apart:.4f} apart")
    assert (found.other_ids, found.same_text) == ([], True)
    assert found.apart < 0.02
    other = build(settings.from_dict(config.to_dict() | {"layer_types": [*kinds[1:], kinds[0]]})).eval()
    other.load_state_dict(model.state_dict())
    tokens = torch.tensor([tokenizer(PROMPT * 2)["input_ids"]])
    with torch.no_grad():
        assert (other(tokens).logits - model(tokens).logits)[0, -1].abs().max() > 0.1


def test_half_of_gemma_by_vocabulary_and_depth(tmp_path: Path) -> None:
    """Its reference is a .gguf file, so there is no tokenizer.model: one is made of the trimmed tokenizer.json."""
    reference = gemma3(tmp_path)
    model = inherit(reference, 9, vocabulary="text", text=TEXT, out=tmp_path / "half")
    assert model.config.vocab_size < 20_000
    found = compare(tmp_path / "half", tmp_path)
    print(f"{model.config.vocab_size:,} tokens, log-probabilities at most {found.apart:.4f} apart: {found.text!r}")
    assert (found.other_ids, found.same_text) == ([], True)
    assert found.apart < 0.02
    check_lm_eval(tmp_path / "half", tmp_path)


def test_half_of_smollm2_by_width_and_depth(smol: Path, tmp_path: Path) -> None:
    """Refitted, not trained; it answers through its chat template in both."""
    inherit(smol, 20, mlp=1024, heads=6, text=TEXT, refit="2048 tokens", out=tmp_path / "half")
    found = compare(tmp_path / "half", tmp_path)
    print(f"log-probabilities at most {found.apart:.4f} apart: {found.text!r}, {found.answer['chat']!r}")
    assert (found.other_ids, found.same_text) == ([], True)
    assert found.apart < 0.01
    check_lm_eval(tmp_path / "half", tmp_path)


def test_a_trimmed_vocabulary(smol: Path, tmp_path: Path) -> None:
    """All blocks, and the tokens that a text needs: the converter does not know this tokenizer, and is told."""
    model = inherit(smol, "all", vocabulary="text", text=TEXT, out=tmp_path / "trimmed")
    assert model.config.vocab_size < 20_000
    found = compare(tmp_path / "trimmed", tmp_path)
    print(f"{model.config.vocab_size:,} tokens, log-probabilities at most {found.apart:.4f} apart: {found.text!r}")
    assert (found.other_ids, found.same_text) == ([], True)
    assert found.apart < 0.01
