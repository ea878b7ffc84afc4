"""One loss for one model: what its tokenizer puts before a text stands there in every command, as in transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import inheritune
from inheritune.data import batch_numbers, open_prepared, prefix_tokens, train_tokenizer
from inheritune.errors import InputError
from inheritune.evaluation import greedy_continuation, judge_on

LENGTH = 24
KINDS = {
    "nothing": "$A",
    "bos": "<s> $A",
    "several": "[gMASK] <sop> $A",
    "end-of-text": "<|endoftext|> $A",
    "behind too": "<s> $A <|endoftext|>",
}
LINES = "".join(f"Line {number}: the small model keeps {number % 7} of its blocks.\n" for number in range(400))


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    made = train_tokenizer((LINES for _ in range(3)), 300)
    made.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["[gMASK]", "<sop>"]})
    specials = [(name, made.convert_tokens_to_ids(name)) for name in ("<s>", "[gMASK]", "<sop>", "<|endoftext|>")]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return made


@pytest.fixture(scope="module", params=list(KINDS))
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama whose tokenizer puts this before a text."""
    folder, tokenizer = tmp_path_factory.mktemp("reference"), tokenizer_with(KINDS[request.param])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, a line each, of 2 KB in all."""
    file = tmp_path_factory.mktemp("text") / "lines.jsonl"
    records = [{"text": line} for line in LINES.splitlines()[:60]]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def plain_losses(folder: Path, stream: list[int], apart: bool = False, length: int = LENGTH) -> list[float]:
    """The mean loss of each sequence of a stream of tokens, by transformers alone, one sequence at a time.

    `apart`: each document of a sequence passes alone.
    """
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prefix, end = prefix_by_hand(tokenizer), tokenizer.eos_token_id
    shown = 0 if prefix else 1
    found = []
    for first in range(0, len(stream) - shown - length + 1, length):
        window = stream[first : first + shown + length]
        documents: list[tuple[list[int], list[int]]] = [(list(prefix), [])]
        for at, token in enumerate(window):
            if at and window[at - 1] == end:
                if apart:
                    documents.append((list(prefix), []))
                elif prefix != [end]:  # the end of one document is what stands before the next
                    documents[-1][0].extend(prefix)
            tokens, targets = documents[-1]
            if tokens and at >= shown:
                targets.append(len(tokens))
            tokens.append(token)
        nats, count = 0.0, 0
        for number, (tokens, targets) in enumerate(documents):
            with torch.no_grad():
                logs = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
            nats -= sum(logs[at - 1, tokens[at]].item() for at in targets)
            count += len(targets)
            if apart and not prefix and number + 1 < len(documents):  # the end of one predicts the next one's first
                nats -= logs[-1, documents[number + 1][0][0]].item()
                count += 1
        assert count == length
        found.append(nats / count)
    return found


def prefix_by_hand(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids = tokenizer("TensorCopy", return_special_tokens_mask=True)
    mask = ids["special_tokens_mask"]
    return list(ids["input_ids"][: mask.index(0)])


def made(folder: Path, text: Path, out: Path, **more: Any) -> list[int]:
    """Prepare the text; returns its validation tokens."""
    data = {"sources": [{"path": str(text)}], "validation": "500 tokens", **more}
    return inheritune.prepare(data, AutoTokenizer.from_pretrained(folder), out).tokens("validation").read().tolist()


def test_the_prefix_is_what_the_tokenizer_puts_before_a_text(reference: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference)
    plain, around = (tokenizer("x", add_special_tokens=special)["input_ids"] for special in (False, True))
    prefix = list(prefix_tokens(tokenizer))
    assert around[: len(prefix) + len(plain)] == prefix + plain
    assert list(prefix_tokens(tokenizer)) == prefix_by_hand(tokenizer)


@pytest.mark.parametrize("attention", ["sequence", "document"])
def test_prepared_data_has_the_loss_of_plain_transformers(
    reference: Path, text: Path, tmp_path: Path, attention: str
) -> None:
    stream = made(reference, text, tmp_path / "data")
    expected = plain_losses(reference, stream, apart=attention == "document")
    found = inheritune.evaluate(
        reference, tmp_path / "data", LENGTH, device="cpu", attention=attention, micro_batch=3
    ).to_json()
    assert found["models"][0]["val_loss"] == pytest.approx(np.mean(expected), abs=2e-5)
    plain = inheritune.evaluate(
        reference, tmp_path / "data", LENGTH, device="cpu", prefix="none", attention=attention
    ).to_json()
    if prefix_by_hand(AutoTokenizer.from_pretrained(reference)):
        assert abs(plain["models"][0]["val_loss"] - np.mean(expected)) > 1e-3


def test_text_has_the_loss_that_it_has_when_it_is_prepared(reference: Path, tmp_path: Path) -> None:
    """As one document, which `transformers` judges by itself."""
    (tmp_path / "page.txt").write_text(LINES[:1200], encoding="utf-8")
    model, tokenizer = LlamaForCausalLM.from_pretrained(reference), AutoTokenizer.from_pretrained(reference)
    text, prefix = tokenizer(LINES[:1200], add_special_tokens=False)["input_ids"], prefix_by_hand(tokenizer)
    shown = 0 if prefix else 1
    nats = count = 0.0
    for first in range(0, len(text) - shown, LENGTH):
        ids = torch.tensor([[*prefix, *text[first : first + LENGTH + shown]]])
        labels = ids.clone()
        labels[:, : len(prefix)] = -100
        targets = int((labels[:, 1:] != -100).sum())
        nats, count = nats + model(ids, labels=labels).loss.item() * targets, count + targets
    found = inheritune.evaluate(reference, text=tmp_path / "page.txt", sequence_length=LENGTH, device="cpu").to_json()
    assert found["models"][0]["val_loss"] == pytest.approx(nats / count, abs=2e-5)
    assert found["text"]["tokens"] == count == len(text) - shown


def test_documents_have_one_loss_as_text_and_as_data(reference: Path, text: Path, tmp_path: Path) -> None:
    made(reference, text, tmp_path / "data")
    tokenizer = AutoTokenizer.from_pretrained(reference)
    stream = [
        t
        for line in LINES.splitlines()[:60]
        for t in [*tokenizer(line, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    expected = plain_losses(reference, stream[:-1])
    found = inheritune.evaluate(reference, text=text, sequence_length=LENGTH, device="cpu").to_json()["models"][0]
    some = len(expected) * LENGTH / (len(stream) - 1)  # the last sequence is shorter
    assert found["val_loss"] == pytest.approx(np.mean(expected), rel=1.1 * (1 - some) + 1e-5)


def test_analyze_sees_the_prefix(reference: Path, text: Path, tmp_path: Path) -> None:
    stream = made(reference, text, tmp_path / "data")
    expected = plain_losses(reference, stream)
    found = inheritune.analyze(
        reference, data=tmp_path / "data", sequences=len(expected), sequence_length=LENGTH, device="cpu",
        loss_sequences=len(expected), dtype="float32",
    ).to_json()["models"][0]  # fmt: skip
    assert found["prefix"] == prefix_by_hand(AutoTokenizer.from_pretrained(reference))
    assert found["blocks"][-1]["depth_loss"]["mean"] == pytest.approx(np.mean(expected), abs=5e-3)
    as_text = inheritune.analyze(
        reference, text=text, sequences=3, sequence_length=LENGTH, device="cpu", loss_sequences=3, dtype="float32"
    ).to_json()["models"][0]
    tokenizer = AutoTokenizer.from_pretrained(reference)
    row = [
        t
        for line in LINES.splitlines()[:60]
        for t in [*tokenizer(line, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    every = plain_losses(reference, row)
    where = [number * len(every) // 3 for number in range(3)]
    assert as_text["loss"]["mean"] == pytest.approx(np.mean([every[at] for at in where]), abs=5e-3)


@pytest.mark.long
@pytest.mark.parametrize("reference", ["nothing", "several"], indirect=True)
@pytest.mark.parametrize("attention", ["sequence", "document"])
def test_a_run_judges_and_trains_so(
    reference: Path, text: Path, write_recipe: Any, tmp_path: Path, attention: str
) -> None:
    tree = {
        "reference": str(reference), "data": {"sources": [{"path": str(text)}], "validation": "500 tokens"},
        "recovery": "paper",
        "inherit": {"layers": 1, "choose": "first"}, "grow": {"until": "max_layers", "max_layers": 1},
        "train": {
            "length": "2 steps", "batch": "2 sequences", "sequence_length": LENGTH, "precision": "float32",
            "attention": attention, "optimizer": {"learning_rate": 0.0001},
        },
        "evaluate": {"analyze": False, "prompts": [], "every": "1 steps", "sequences": 4}, "hardware": {"device": "cpu"},
    }  # fmt: skip
    recipe = inheritune.load_recipe(write_recipe(tree))
    summary = inheritune.run(recipe, tmp_path / "run")
    stream = open_prepared(tmp_path / "run" / "data").tokens("validation").read().tolist()
    apart = attention == "document"
    assert summary.reference.val_loss == pytest.approx(np.mean(plain_losses(reference, stream, apart)), abs=2e-5)
    place = tmp_path / "run" / summary.result.model
    assert summary.result.val_loss == pytest.approx(np.mean(plain_losses(place, stream, apart)), abs=2e-5)
    again = inheritune.evaluate(tmp_path / "run", device="cpu").to_json()["models"]
    assert [one["val_loss"] for one in again] == pytest.approx(
        [summary.reference.val_loss, summary.result.val_loss], abs=1e-6
    )
    # the first step: the target as it was inherited, on the first batch
    inherited = tmp_path / "inherited"
    inheritune.inherit(reference, 1, out=inherited)
    records = [json.loads(line) for line in (place.parent / "metrics.jsonl").read_text().splitlines()]
    stream = open_prepared(tmp_path / "run" / "data").tokens("train").read().tolist()
    every = plain_losses(inherited, stream, apart)
    expected = [every[number] for number in batch_numbers(0, 2, len(every), recipe.seed)]
    assert next(one["loss"] for one in records if "loss" in one) == pytest.approx(np.mean(expected), abs=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("reference", ["bos"], indirect=True)
def test_results_of_earlier_versions_are_not_continued(
    reference: Path, text: Path, write_recipe: Any, tmp_path: Path
) -> None:
    judged = tmp_path / "run" / "reference" / "evaluation.json"
    tree = {
        "reference": str(reference), "data": {"sources": [{"path": str(text)}], "validation": "500 tokens"},
        "recovery": "paper",
        "train": {"length": "1 steps", "batch": "2 sequences", "sequence_length": LENGTH},
        "evaluate": {"analyze": False, "prompts": [], "every": "1 steps", "sequences": 4},
        "grow": {"until": "max_layers", "max_layers": 1}, "inherit": {"layers": 1}, "hardware": {"device": "cpu"},
    }  # fmt: skip
    recipe = inheritune.load_recipe(write_recipe(tree))
    inheritune.run(recipe, tmp_path / "run")
    found = json.loads(judged.read_text())
    assert found.pop("prefix")
    (tmp_path / "run" / "summary.json").unlink()
    place = next((tmp_path / "run" / "rounds").iterdir())
    for file in ("evaluation.json", "training.json", "framing.json"):  # a round that was interrupted
        (place / file).unlink()
    with pytest.raises(InputError, match=r"framing.json: was computed without a prefix"):
        inheritune.run(recipe, tmp_path / "run")
    judged.write_text(json.dumps(found))
    with pytest.raises(
        InputError, match=r"evaluation.json: was computed without a prefix, and this call computes with the tokens"
    ):
        inheritune.run(recipe, tmp_path / "run")


def test_samples_do_not_go_on_behind_an_end(reference: Path) -> None:
    model, tokenizer = LlamaForCausalLM.from_pretrained(reference), AutoTokenizer.from_pretrained(reference)
    prefix = prefix_by_hand(tokenizer)
    ids = [*prefix, *tokenizer("the small", add_special_tokens=False)["input_ids"]]
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids, skip_special_tokens=True).removeprefix("the small")
    assert greedy_continuation(model, tokenizer, "the small", 5, prefix) == expected


@pytest.fixture
def stored(reference: Path, tmp_path: Path) -> tuple[Path, list[int]]:
    """NanoGPT's files whose documents hold the prefix already, and the validation tokens without it."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    plain = [
        [*tokenizer(line, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for line in LINES.splitlines()[:80]
    ]
    held = [token for row in plain for token in [*prefix_by_hand(tokenizer), *row]]
    (tmp_path / "stored").mkdir()
    for name in ("train.bin", "val.bin"):
        np.array(held, np.uint16).tofile(tmp_path / "stored" / name)
    return tmp_path / "stored", [token for row in plain for token in row]


def test_token_files_that_hold_the_prefix_are_judged_by_their_text(
    reference: Path, stored: tuple[Path, list[int]]
) -> None:
    """By bits per byte of nearly the same sequences, as the prefix is no text and is not predicted."""
    folder, stream = stored
    tokenizer = AutoTokenizer.from_pretrained(reference)
    found = inheritune.evaluate(reference, folder, LENGTH, device="cpu").to_json()["models"][0]
    assert found["val_loss"] == pytest.approx(np.mean(plain_losses(reference, stream)), rel=0.03)
    text = tokenizer.decode([token for token in stream if token != tokenizer.eos_token_id])
    assert inheritune.evaluate(reference, folder, LENGTH, device="cpu").to_json()["text"]["bytes"] == pytest.approx(
        len(text), rel=0.02
    )
    judged = judge_on(LlamaForCausalLM.from_pretrained(reference), folder, LENGTH, device="cpu", tokenizer=tokenizer)
    assert judged.loss.value == pytest.approx(found["val_loss"], abs=1e-6)


@pytest.mark.parametrize("reference", ["bos", "several"], indirect=True)
@pytest.mark.parametrize("outputs", ["stored", "online"])
def test_a_teacher_counts_each_target_once(
    reference: Path, stored: tuple[Path, list[int]], tmp_path: Path, outputs: str
) -> None:
    """The model as its own teacher: no divergence, and a cross-entropy that is its loss without one."""
    folder, _ = stored
    tokenizer = AutoTokenizer.from_pretrained(reference)
    settings = {"length": "1 steps", "batch": "6 sequences", "sequence_length": LENGTH, "precision": "float32"}
    found = {}
    for name, teacher in (("plain", None), ("taught", reference)):
        taught = settings if teacher is None else {**settings, "distillation": {"outputs": outputs}}
        inheritune.train(
            reference, folder, tmp_path / name, settings=taught, tokenizer=tokenizer, device="cpu", teacher=teacher
        )
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        found[name] = next(one for one in lines if "loss" in one)
    assert found["taught"]["cross_entropy"] == pytest.approx(found["plain"]["loss"], rel=1e-5)
    assert found["taught"]["kl"] == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("reference", ["bos"], indirect=True)
def test_a_training_is_not_continued_with_another_prefix(reference: Path, text: Path, tmp_path: Path) -> None:
    made(reference, text, tmp_path / "data")
    settings = {"length": "2 steps", "batch": "2 sequences", "sequence_length": LENGTH}
    inheritune.train(reference, tmp_path / "data", tmp_path / "out", settings=settings, device="cpu")
    (tmp_path / "out" / "evaluation.json").unlink()
    with pytest.raises(InputError, match="belongs to another training: prefix"):
        inheritune.train(reference, tmp_path / "data", tmp_path / "out", settings=settings, device="cpu", prefix="none")


def test_a_prefix_that_the_model_does_not_embed_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_with("<s> $A")
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "page.txt").write_text(LINES[:900], encoding="utf-8")
    with pytest.raises(InputError, match=r"puts token 300 before a text, and the model embeds 300; .*prefix: none"):
        inheritune.evaluate(tmp_path / "model", text=tmp_path / "page.txt", sequence_length=LENGTH, device="cpu")
    inheritune.evaluate(
        tmp_path / "model", text=tmp_path / "page.txt", sequence_length=LENGTH, device="cpu", prefix="none"
    )
