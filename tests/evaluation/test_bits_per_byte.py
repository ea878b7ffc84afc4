"""Bits per byte and losses of a text against plain computations of them, for models with different tokenizers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import inheritune
from inheritune.corpus import prepare
from inheritune.data import Packing, train_tokenizer
from inheritune.errors import InputError
from inheritune.evaluation import judge_on, mean
from inheritune.evaluation.reading import ratio, read_text

TEXTS = [
    "The small model – naïve, 東京 – keeps\n\tsome of its blocks.\n",
    "Ein zweites Dokument, größer als das erste. " * 9,
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 whose tokenizer puts a token of its own before a text, and splits otherwise."""
    from tokenizers import processors

    words = (f"words {number} of another kind, naïve and größer; the small blocks" for number in range(200))
    tokenizer = train_tokenizer(words, 330)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=16, n_head=2, n_positions=64)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_bytes(text.encode())
    return folder


def plain_nats(folder: Path, length: int) -> tuple[float, float, int]:
    """Nats of all predicted tokens of TEXTS, nats of those that are text, and how many are predicted, one by one.

    What the tokenizer puts before a text stands before each `length` tokens, and before the second document.
    """
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    end, before = tokenizer.eos_token_id, tokenizer("")["input_ids"]
    row: list[int] = []
    for text in TEXTS:
        row += [*tokenizer(text, add_special_tokens=False)["input_ids"], end]
    row, shown = row[:-1], 0 if before else 1
    every, of_text, count = 0.0, 0.0, 0
    for first in range(0, len(row) - shown, length):
        part, targets = list(before), []
        for at, token in enumerate(row[first : first + shown + length]):
            if at and before and row[first + at - 1] == end:
                part += before
            if at >= shown:
                targets.append(len(part))
            part.append(token)
        with torch.no_grad():
            logs = model(torch.tensor([part[:-1]])).logits[0].double().log_softmax(-1)
        for at in targets:
            nats = -logs[at - 1, part[at]].item()
            every, of_text, count = every + nats, of_text + nats * (part[at] != end), count + 1
    return every, of_text, count


@pytest.mark.parametrize("length", [7, 24, 62])
def test_bits_per_byte_of_models_with_different_tokenizers(
    files: Path, reference_folder: Path, other: Path, length: int
) -> None:
    found = inheritune.evaluate(
        [reference_folder, other], text=files, sequence_length=length, device="cpu", micro_batch=3
    ).to_json()
    size = sum(file.stat().st_size for file in files.iterdir())
    for figures, folder in zip(found["models"], (reference_folder, other), strict=True):
        every, of_text, count = plain_nats(folder, length)
        predicted = size if folder == other else size - len("T")  # nothing predicts the first token there
        assert figures["val_loss"] == pytest.approx(every / count, rel=1e-6)
        assert figures["bits_per_byte"] == pytest.approx(of_text / math.log(2) / predicted, rel=1e-6)
        assert figures["perplexity"] == pytest.approx(math.exp(every / count), rel=1e-5)
    assert found["text"]["bytes"] is None  # each predicts its own share of them
    assert found["text"]["tokens"] is None


def test_text_of_prepared_data_is_the_runs_and_the_same_for_a_model_with_another_tokenizer(
    text: Path, tokenizer: Any, reference_folder: Path, other: Path, tmp_path: Path
) -> None:
    prepared = prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    found = inheritune.evaluate([reference_folder, other], tmp_path / "data", 24, device="cpu").to_json()
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    own, foreign = found["models"]
    assert own["val_loss"] == judge_on(model, tmp_path / "data", 24, device="cpu").loss.value
    tokens = prepared.tokens("validation").read().tolist()
    count = (len(tokens) - 1) // 24
    nats = 0.0
    for number in range(count):
        row = tokens[number * 24 : number * 24 + 25]
        with torch.no_grad():
            logs = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        nats -= sum(logs[at, token].item() for at, token in enumerate(row[1:]) if token != prepared.end_of_text)
    predicted = tokenizer.decode(tokens[1 : count * 24 + 1]).replace("<|endoftext|>", "")
    assert own["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(predicted.encode()), rel=1e-6)
    assert found["text"]["bytes"] == len(predicted.encode())
    ids = len(AutoTokenizer.from_pretrained(other)(predicted, add_special_tokens=False)["input_ids"])
    assert foreign["bits_per_byte"] == pytest.approx(
        foreign["val_loss"] * ids / math.log(2) / len(predicted.encode()), rel=0.02
    )


def test_every_token_is_predicted_once_whatever_the_length(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    whole = [token for text in TEXTS for token in [*tokenizer(text)["input_ids"], end]][:-1]
    for length in (1, 5, len(whole), 2 * len(whole)):
        for prefix, context in (((), 1), ((end,), 0)):
            reading = read_text(TEXTS, tokenizer, Packing(prefix, end), length, "text")
            examples = reading.sequences.rows(range(reading.sequences.count)).examples()
            assert examples.targets[examples.targets != -100].tolist() == whole[context:]
            assert reading.bytes == len("".join(TEXTS).encode()) - len(tokenizer.decode(whole[:context]))
            assert sum(reading.shares) == pytest.approx(reading.bytes, abs=6 * reading.sequences.count)


def test_a_sequence_longer_than_a_table_of_positions_is_refused(files: Path, other: Path) -> None:
    """64 tokens and a prefix before each of two documents, for a model with 64 learned positions."""
    with pytest.raises(
        InputError, match=r"a sequence takes 65 positions, the model has 64; shorten sequences by 1 or more"
    ):
        inheritune.evaluate(other, text=files, sequence_length=64, device="cpu")
    with pytest.raises(InputError, match=r"a sequence takes 65 positions, the model has 64"):
        inheritune.analyze(other, text=files, sequence_length=64, sequences=2, loss_sequences=2, device="cpu")
    inheritune.evaluate(other, text=files, sequence_length=64, device="cpu", attention="document")
    inheritune.evaluate(other, text=files, sequence_length=64, device="cpu", prefix="none")


def test_a_ratio_and_its_error_against_a_bootstrap() -> None:
    random = np.random.default_rng(3)
    sizes = random.uniform(50, 150, 400)
    values = 0.9 * sizes + random.normal(0, 10, 400)
    found = ratio(values.tolist(), sizes.tolist())
    draws = random.integers(0, 400, (4000, 400))
    assert found.value == pytest.approx(values.sum() / sizes.sum())
    assert found.error == pytest.approx((values[draws].sum(1) / sizes[draws].sum(1)).std(), rel=0.05)
    same = ratio(values.tolist(), [2.0] * 400)
    assert (same.value, same.error) == pytest.approx((values.mean() / 2, mean((values / 2).tolist()).error))
    assert ratio([1.0], [2.0]).error is None


def test_text_that_a_tokenizer_cannot_spell_is_said(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "The": 2, "small": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_layer=1, n_embd=4, n_head=1, n_positions=64))
    inheritune.evaluate(model, text=files / "0.txt", tokenizer=tokenizer, device="cpu")
    assert any("cannot spell" in line and "of 13 tokens" in line for line in caplog.messages), caplog.messages


def test_what_is_no_text_is_refused(reference_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text there"):
        read_text([], tokenizer, Packing(), 8, "here")
    with pytest.raises(InputError, match="no such file"):
        inheritune.evaluate(reference_folder, text=tmp_path / "none.txt", device="cpu")
    with pytest.raises(InputError, match=r"--sequence-length: .*65.*give at most 64"):
        inheritune.evaluate(reference_folder, text=tmp_path, sequence_length=65, device="cpu")
