"""Preparing conversations: every form of records, whole ones in both splits, the targets in the shards, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pieces import cut_small

from chats import MARKED, chat_tokenizer, slow_chat, some_chats, write_chats
from inheritune.corpus import prepare
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.data import (
    BEGINS,
    COUNTS,
    ChatTemplate,
    Conversation,
    Prepared,
    Sequences,
    fingerprint,
    open_prepared,
    packing_of,
    preview,
)
from inheritune.errors import InputError
from inheritune.recipe import Source, check


@pytest.fixture(scope="module")
def chatty(tokenizer: Any) -> Any:
    return chat_tokenizer(tokenizer)


def request(*files: Path, **more: Any) -> dict[str, Any]:
    sources = [{"path": str(file), "messages_key": "messages"} for file in files]
    return {"sources": sources, "validation": "400 tokens", "assistant_only_loss": True, "workers": 1, **more}


def held(prepared: Prepared, split: str) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """The conversations of a split: their ids, and which of them count."""
    tokens = prepared.tokens(split)
    assert tokens.marks is not None
    marks = tokens.marks.read()
    begins = np.flatnonzero(marks & BEGINS)[1:]
    pairs = zip(np.split(tokens.read(), begins), np.split(marks & COUNTS > 0, begins), strict=True)
    return [(tuple(ids.tolist()), tuple(counts.tolist())) for ids, counts in pairs]


def by_hand(tokenizer: Any, chats: list[Any]) -> set[tuple[tuple[int, ...], tuple[bool, ...]]]:
    return {(tuple(ids), tuple(counts)) for ids, counts in (slow_chat(tokenizer, chat) for chat in chats)}


def test_each_conversation_is_whole_in_one_split(chatty: Any, tmp_path: Path) -> None:
    chats = some_chats(60)
    file = write_chats(tmp_path / "chats.jsonl", [*chats, *chats[:9]])  # some twice
    found = prepare(request(file, filters=["exact_duplicates"]), chatty, tmp_path / "data")
    train, validation = held(found, "train"), held(found, "validation")
    assert len(train) + len(validation) == len(chats)
    assert {*train, *validation} == by_hand(chatty, chats)
    sizes = [len(ids) for ids, _ in validation]
    assert sum(sizes) >= 400 > sum(sizes[:-1]) - 20  # whole ones, and hardly more than needed
    assert found.manifest["documents"]["train"] == len(train)
    assert found.manifest["targets"]["train"] == sum(sum(counts) for _, counts in train)
    assert found.manifest["tokenizer"] == fingerprint(chatty)


def test_the_size_is_reached_with_a_whole_conversation(chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(60))
    whole = held(prepare(request(file), chatty, tmp_path / "whole"), "train")
    part = held(prepare(request(file, size="500 tokens"), chatty, tmp_path / "part"), "train")
    sizes = [len(ids) for ids, _ in part]
    assert part == whole[: len(part)]
    assert sum(sizes[:-1]) < 500 <= sum(sizes)
    limited = request(file)
    limited["sources"][0]["limit"] = "500 tokens"
    assert 0 < sum(len(ids) for ids, _ in held(prepare(limited, chatty, tmp_path / "limit"), "train")) <= 500


def texts_in(source: dict[str, Any], template: ChatTemplate) -> list[tuple[str, Any]]:
    """What is read of a source: texts, and the stretches that count."""
    settings = check(Source, source, "test")
    [one] = list_inputs([settings])
    texts = read(one, settings, lambda place, reason: None, seed=0, template=template)
    return [(text.text, text.counted) for text in texts]


def test_every_form_of_records_gives_the_same(chatty: Any, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import ipc, parquet

    chats = some_chats(40)
    columns = {"id": list(range(40)), "messages": chats}
    table = pyarrow.table(columns)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    with ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    write_chats(tmp_path / "c.jsonl", chats)
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    shared = [[{"from": names[one["role"]], "value": one["content"]} for one in chat] for chat in chats]
    write_chats(tmp_path / "d.jsonl", shared, "conversations")
    parts = [[one | {"content": [{"type": "text", "text": one["content"]}]} for one in chat] for chat in chats]
    write_chats(tmp_path / "e.jsonl", parts)
    template = ChatTemplate(chatty, "test", assistant_only=True)
    rendered = [template.render(Conversation(chat)) for chat in chats]
    for file in sorted(tmp_path.iterdir()):
        key = "conversations" if file.name[0] == "d" else "messages"
        found = texts_in({"path": str(file), "messages_key": key}, template)
        assert found == [(one.text, one.counted) for one in rendered], file


@pytest.mark.long
def test_conversations_are_streamed(chatty: Any, tmp_path: Path) -> None:
    chats = some_chats(40)
    folder = tmp_path / "set"
    folder.mkdir()
    write_chats(folder / "train.jsonl", chats)
    asked = request(folder)
    asked["sources"] = [{"dataset": str(folder), "messages_key": "messages", "buffer": 10}]
    found = prepare(asked, chatty, tmp_path / "streamed")
    assert {*held(found, "train"), *held(found, "validation")} == by_hand(chatty, chats)
    asked["sources"][0]["messages_key"] = "chats"
    with pytest.raises(InputError, match="no column 'chats'; there are: 'messages'"):
        prepare(asked, chatty, tmp_path / "wrong")


def test_tools_and_their_calls(tokenizer: Any, tmp_path: Path) -> None:
    template = (
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}{{ message.role + ': ' }}"
        "{% if message.tool_calls %}{{ message.tool_calls[0].function.arguments.city }}"
        "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    own = chat_tokenizer(tokenizer, template)
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    chat = [
        {"role": "user", "content": "the weather"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "it rains"},
        {"role": "assistant", "content": "rain"},
    ]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": str(number)}, *chat[1:]], "tools": [{"name": "weather"}]})
        for number in range(30)
    ]
    (tmp_path / "tools.jsonl").write_text("\n".join(lines))
    found = prepare(request(tmp_path / "tools.jsonl"), own, tmp_path / "data")
    ids, counts = held(found, "train")[0]
    text = own.decode(ids)
    assert text.startswith('[{"name": "weather"}]\nuser: ')
    assert text.endswith("assistant: Rome<|im_end|>tool: it rains<|im_end|>assistant: rain<|im_end|>")
    assert (
        own.decode([one for one, counted in zip(ids, counts, strict=True) if counted]) == "Rome<|im_end|>rain<|im_end|>"
    )


@pytest.mark.long
def test_the_same_bytes_in_parts_and_workers_and_with_marks_in_the_template(
    tokenizer: Any, chatty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(60))
    once = prepare(request(file), chatty, tmp_path / "once")
    marked = prepare(request(file), chat_tokenizer(tokenizer, MARKED), tmp_path / "marked")
    cut_small(monkeypatch, 3_000, 2_000)
    monkeypatch.setattr("inheritune.corpus.building.writing.SHARD_TOKENS", 700)
    parts = prepare(request(file), chatty, tmp_path / "parts")
    assert len(parts.manifest["marks"]["train"]) > 1
    for split in ("train", "validation"):
        assert held(once, split) == held(marked, split) == held(parts, split)
    assert prepare(request(file), chatty, tmp_path / "parts").checksums == parts.checksums  # opened, and verified
    assert len(once.checksums) == 4


def test_damage_of_marks_is_found(chatty: Any, tmp_path: Path) -> None:
    prepare(request(write_chats(tmp_path / "chats.jsonl", some_chats(40))), chatty, tmp_path / "data")
    place = tmp_path / "data" / "train-00000.marks"
    content = bytearray(place.read_bytes())
    content[5] ^= 1
    place.write_bytes(content)
    with pytest.raises(InputError, match=r"train-00000.marks: changed since it was written"):
        open_prepared(tmp_path / "data").verify()


def test_all_text_counts_unless_asked(chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(40))
    found = prepare(request(file, assistant_only_loss=False), chatty, tmp_path / "data")
    assert all(counts == (False, *[True] * (len(ids) - 1)) for ids, counts in held(found, "train"))


def test_previews_are_whole_conversations(chatty: Any, tmp_path: Path) -> None:
    found = prepare(request(write_chats(tmp_path / "chats.jsonl", some_chats(60))), chatty, tmp_path / "data")
    texts = {chatty.decode(ids) for ids, _ in held(found, "train")}
    shown = list(preview(found, 10, chatty))
    assert len(shown) == 10
    assert all(any(text.startswith(one["text"][:200]) for text in texts) for one in shown)


def test_a_row_that_is_no_text_is_named(chatty: Any, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    chats = some_chats(40)
    table = pyarrow.table({"messages": chats})
    parquet.write_table(table, tmp_path / "chats.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "chats.parquet").read_bytes()
    wrong = chats[7][-1]["content"].encode()
    (tmp_path / "chats.parquet").write_bytes(content.replace(wrong, b"\xff" * len(wrong)))
    with pytest.raises(InputError, match=r"chats.parquet: row 8: not UTF-8 text"):
        prepare(request(tmp_path / "chats.parquet"), chatty, tmp_path / "data")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"text": "no chat"}, "no list of messages under 'messages'; the keys are: 'text'"),
        ({"messages": []}, "no list of messages"),
        ({"messages": [{"content": "a"}]}, "message 1 has no role"),
        ({"messages": [{"role": "user"}]}, "message 1 has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1 has parts that are no text"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "no JSON"}, "'no JSON' is no JSON"),
    ],
)
def test_what_is_no_conversation_is_named_or_skipped(line: Any, reason: str, chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(40))
    file.write_text(file.read_text() + json.dumps(line) + "\n")
    with pytest.raises(InputError, match=f"chats.jsonl: line 41: {reason}"):
        prepare(request(file), chatty, tmp_path / "data")
    skipping = request(file)
    skipping["sources"][0]["on_error"] = "skip"
    found = prepare(skipping, chatty, tmp_path / "data")
    assert sum(found.manifest["sources"][0]["passed_over"].values()) == 1
    assert len(held(found, "train")) + len(held(found, "validation")) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sources": [{"path": "a.jsonl", "messages_key": "messages"}, {"path": "b.txt"}]},
            "a.jsonl has conversations",
        ),
        ({"sources": [{"path": "a", "messages_key": "messages", "document": "line"}]}, "each record is a conversation"),
        ({"sources": [{"path": "a", "messages_key": "messages", "text_key": "body"}]}, "in place of text"),
        ({"sources": [{"path": "a.txt"}]}, "assistant_only_loss is for conversations"),
        ({"filters": ["c4"]}, "c4 cuts text out of documents"),
    ],
)
def test_settings_that_do_not_go_together(change: Any, message: str, chatty: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        prepare(request(tmp_path / "a.jsonl") | change, chatty, tmp_path / "data")


def test_text_that_is_conversations_says_how_to_read_them(chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(3))
    with pytest.raises(InputError, match="for conversations set the source's `messages_key: messages`"):
        prepare({"sources": [{"path": str(file)}], "validation": "400 tokens"}, chatty, tmp_path / "data")


def test_long_conversations_are_kept_dropped_or_divided_as_the_data_says(chatty: Any, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "chats.jsonl", some_chats(40))
    for long in ("truncate", "drop", "split"):
        found = prepare(request(file, long_conversations=long), chatty, tmp_path / long)
        packing = packing_of(found, chatty)
        assert (packing.long_conversations, packing.prefix) == (long, ())
        text = Sequences(found.tokens("train"), 60, "test", packing=packing)
        assert text.placement is not None
        assert text.placement.longer > 0
        assert (text.left_over == 0) == (long == "split")
