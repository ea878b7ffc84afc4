"""Judging conversations: the assistant's turns as plain transformers has them, text as a message, what is refused."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import inheritune
from chats import chat_tokenizer, slow_chat, some_chats, write_chats
from inheritune.cli import main
from inheritune.corpus import prepare
from inheritune.errors import InputError
from inheritune.evaluation import document_starts, greedy_answer


@pytest.fixture(scope="module")
def chatty(tokenizer: Any) -> Any:
    return chat_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory, chatty: Any) -> Path:
    """A tiny random Llama with a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chatty), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.2, bos_token_id=0, eos_token_id=chatty.eos_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("chatty")
    LlamaForCausalLM(config).save_pretrained(folder)
    chatty.save_pretrained(folder)
    return folder


def slow_losses(folder: Path, ids: list[int], counted: list[bool]) -> tuple[list[float], list[int]]:
    """The losses of the tokens that count, and these tokens, of a text alone."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
    kept = [(loss, token) for loss, token, counts in zip(losses, ids[1:], counted[1:], strict=True) if counts]
    return [loss for loss, _ in kept], [token for _, token in kept]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_assistants_turns_are_judged(form: str, chat_model: Path, chatty: Any, tmp_path: Path) -> None:
    chats = some_chats(25)
    file = tmp_path / f"chats.{form}"
    if form == "jsonl":
        write_chats(file, chats)
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"messages": chats}), file)
    found = inheritune.evaluate(chat_model, text=file, sequence_length=200, attention="document", device="cpu")
    losses, bits, size = [], 0.0, 0
    for chat in chats:
        own, tokens = slow_losses(chat_model, *slow_chat(chatty, chat))
        losses += own
        bits += sum(loss for loss, token in zip(own, tokens, strict=True) if token != chatty.eos_token_id) / math.log(2)
        size += sum(len(one["content"].encode()) for one in chat if one["role"] == "assistant")
    [model] = found.models
    assert model.val_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert model.bits_per_byte == pytest.approx(bits / size, rel=1e-4)
    assert found.text is not None
    assert (found.text.tokens, found.text.bytes, found.text.documents) == (len(losses), size, 25)
    assert found.text.counted == "the assistant's turns"


def test_long_conversations_are_judged_to_their_end(chat_model: Path, chatty: Any, tmp_path: Path) -> None:
    chats = some_chats(25)
    found = inheritune.evaluate(
        chat_model, text=write_chats(tmp_path / "chats.jsonl", chats), sequence_length=32, device="cpu"
    )
    assert found.text is not None
    assert found.text.tokens == sum(sum(slow_chat(chatty, chat)[1]) for chat in chats)


def test_text_is_a_users_message_where_asked(chat_model: Path, chatty: Any, tmp_path: Path) -> None:
    texts = [f"the small model keeps block {number}" for number in range(25)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = inheritune.evaluate(
        chat_model, text=tmp_path, sequence_length=200, chat=True, attention="document", device="cpu"
    )
    losses: list[float] = []
    for text in texts:
        parts = (chatty(one, add_special_tokens=False)["input_ids"] for one in
                 ("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n", text, "<|im_end|>\n"))  # fmt: skip
        before, own, after = parts
        counted = [False] * len(before) + [True] * len(own) + [False] * len(after)
        losses += slow_losses(chat_model, [*before, *own, *after], counted)[0]
    assert found.models[0].val_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found.text is not None
    assert found.text.bytes == sum(len(text.encode()) for text in texts)
    assert found.text.counted == "text as a user's message"
    plain = inheritune.evaluate(chat_model, text=tmp_path, sequence_length=200, device="cpu")
    assert plain.models[0].val_loss != found.models[0].val_loss
    assert plain.text is not None
    assert plain.text.counted is None


def test_prepared_conversations_are_judged_by_their_marks(chat_model: Path, chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(40))
    source = {"path": str(file), "messages_key": "messages"}
    request = {"sources": [source], "validation": "600 tokens", "assistant_only_loss": True, "workers": 1}
    prepared = prepare(request, chatty, tmp_path / "data")
    found = inheritune.evaluate(chat_model, tmp_path / "data", 200, attention="document", device="cpu")
    tokens = prepared.tokens("validation")
    assert tokens.marks is not None
    marks, losses = tokens.marks.read(), list[float]()
    begins = [*(marks & 2).nonzero()[0].tolist(), len(marks)]
    for first, last in itertools.pairwise(begins):
        counted = (marks[first:last] & 1 > 0).tolist()
        losses += slow_losses(chat_model, tokens.read(first, last - first).tolist(), counted)[0]
    assert found.models[0].val_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found.text is not None
    assert (found.text.counted, found.text.tokens) == ("the assistant's turns", len(losses))


def test_what_cannot_be_judged(
    chat_model: Path, chatty: Any, reference_folder: Path, text: Path, tmp_path: Path
) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(3))
    with pytest.raises(InputError, match="the tokenizer has none"):
        inheritune.evaluate(reference_folder, text=file, device="cpu")
    with pytest.raises(InputError, match=r"chats.jsonl: line 1 has a conversation, and other files have text"):
        inheritune.evaluate(chat_model, text=[file, text], device="cpu")
    with pytest.raises(InputError, match="has conversations already; remove it"):
        inheritune.evaluate(chat_model, text=file, chat=True, device="cpu")
    with pytest.raises(InputError, match="--chat: it is for text"):
        inheritune.evaluate(chat_model, tmp_path, chat=True, device="cpu")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cut.parquet: not a whole .parquet file"):
        inheritune.evaluate(chat_model, text=tmp_path / "cut.parquet", device="cpu")
    file.write_text(file.read_text() + json.dumps({"messages": [{"role": "user", "content": "a"}]}))
    with pytest.raises(InputError, match=f"{chat_model.name}: .*chats.jsonl: line 4: no turn of the assistant"):
        inheritune.evaluate(chat_model, text=file, device="cpu")


def test_answers_are_what_generate_gives(chat_model: Path, chatty: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(chat_model)
    model.lm_head.weight.data[chatty.eos_token_id] = 0  # so that it does not end at once
    ids = chatty.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0]
    expected = chatty.decode(whole[ids.shape[1] :], skip_special_tokens=True)
    assert greedy_answer(model, chatty, "hello", 12) == expected
    # a turn may also end where only the settings for generation say
    end = int(whole[ids.shape[1] + 3])
    model.generation_config.eos_token_id = [chatty.eos_token_id, end]
    answer = greedy_answer(model, chatty, "hello", 12)
    assert answer != expected
    assert expected.startswith(answer)


def test_prompts_from_conversations_end_where_the_assistant_begins(chatty: Any, tmp_path: Path) -> None:
    chats = some_chats(40)
    source = {"path": str(write_chats(tmp_path / "chats.jsonl", chats)), "messages_key": "messages"}
    request = {"sources": [source], "validation": "600 tokens", "assistant_only_loss": True, "workers": 1}
    prompts = document_starts(prepare(request, chatty, tmp_path / "data"), chatty, 3)
    firsts = [chat[: 2 if chat[0]["role"] == "system" else 1] for chat in chats]
    rendered = {chatty.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in firsts}
    assert len(set(prompts)) == 3
    assert set(prompts) <= rendered


def test_the_commands_take_conversations(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(25))
    words = ["prepare", file, "--messages-key", "messages", "--tokenizer", chat_model, "--validation", "400 tokens"]
    assert main([str(word) for word in [*words, "--out", tmp_path / "data", "--sample", "--quiet"]]) == 0
    assert "<|im_start|>assistant" in capsys.readouterr().out
    assert main(["evaluate", str(chat_model), "--text", str(file), "--device", "cpu", "--quiet"]) == 0
    assert "counted: the assistant's turns" in capsys.readouterr().out
    page = tmp_path / "page.txt"
    page.write_text("the small model " * 40)
    assert main(["evaluate", str(chat_model), "--text", str(page), "--chat", "--device", "cpu", "--quiet"]) == 0
    assert "counted: text as a user's message" in capsys.readouterr().out
    assert main(["prepare", "--out", str(tmp_path / "data"), "--nanogpt", str(tmp_path / "bins")]) == 2
    assert "nanoGPT's files cannot say which" in capsys.readouterr().err
