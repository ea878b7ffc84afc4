"""Conversations in records: the messages of OpenAI's and Hugging Face's form, and ShareGPT's."""

import json
from collections.abc import Iterator
from typing import Any

from inheritune.corpus.sources.inputs import TABLES, Input
from inheritune.corpus.sources.records import json_records
from inheritune.corpus.sources.storage import Damaged, kind
from inheritune.corpus.sources.streaming import stream_rows
from inheritune.corpus.sources.tables import column_names, table_rows
from inheritune.corpus.sources.texts import CHAT_KEYS, Fault, Text, name_list
from inheritune.data import CannotRender, ChatTemplate, Conversation
from inheritune.recipe import Source

TOOLS = "tools"
"""The key of the tools that a conversation's assistant may call."""
_SHAREGPT = {"human": "user", "gpt": "assistant"}  # its names of roles; others are as everywhere


def read_conversations(one: Input, source: Source, template: ChatTemplate, seed: int, fault: Fault) -> Iterator[Text]:
    """The conversations of an input as texts of the template, with their targets."""
    for place, conversation in raw_conversations(one, source, seed, fault):
        try:
            rendered = template.render(conversation)
        except CannotRender as error:
            fault(place, error.what, error.remedy)
            continue
        yield Text(place, rendered.text, counted=rendered.counted)


def raw_conversations(one: Input, source: Source, seed: int, fault: Fault) -> Iterator[tuple[str, Conversation]]:
    """The conversations of an input under the source's `messages_key`, with their places."""
    key = source.messages_key
    assert key is not None
    for place, record in _records(one, source, key, seed, fault):
        try:
            conversation = conversation_of(record, key)
        except CannotRender as error:
            fault(place, error.what, error.remedy)
            continue
        yield place, conversation


def messages_key_of(one: Input) -> str | None:
    """The key of conversations in the records of a file, as its first one shows; None for a file of text."""

    def fault(place: str, what: str, remedy: str) -> None:
        return

    names: list[str] = []
    if kind(one.address) in TABLES:
        names = column_names(one)
    elif kind(one.address) in (".jsonl", ".ndjson"):
        first = next((record for _, record in json_records(one, fault)), None)
        names = list(first) if isinstance(first, dict) else []
    return None if "text" in names else next((key for key in CHAT_KEYS if key in names), None)


def _records(one: Input, source: Source, key: str, seed: int, fault: Fault) -> Iterator[tuple[str, Any]]:
    if source.dataset is not None:
        return stream_rows(source, seed, fault)
    if kind(one.address) in TABLES:
        return table_rows(one, fault, key, TOOLS)
    if kind(one.address) == ".csv":
        raise Damaged("a .csv file has no messages", "write conversations as .jsonl or .parquet, or exclude the file")
    return ((place.here(), record) for place, record in json_records(one, fault))


def conversation_of(record: Any, key: str) -> Conversation:
    """The conversation under `key` of a record. Raises CannotRender for anything else."""
    if not isinstance(record, dict):
        raise CannotRender("not an object with keys", f'write records as {{"{key}": [...]}}, or exclude the file')
    messages = _without_null(record.get(key))
    if not isinstance(messages, list) or not messages:
        what = f"no list of messages under {key!r}; the keys are: {name_list(list(record))}"
        raise CannotRender(what, "name the key that holds them with the source's `messages_key`")
    tools = _without_null(record.get(TOOLS)) or None
    if isinstance(tools, str):
        tools = _from_json(tools)
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise CannotRender(f"no list of objects under {TOOLS!r}", "give the tools as JSON schemas, or remove them")
    return Conversation([_message(message, number) for number, message in enumerate(messages, start=1)], tools)


def _message(message: Any, number: int) -> dict[str, Any]:
    """A message with a role and text."""
    if isinstance(message, dict) and "from" in message and "value" in message:
        role = message["from"]
        message = {"role": _SHAREGPT.get(role, role) if isinstance(role, str) else role, "content": message["value"]}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        what, remedy = f"message {number} has no role", 'write messages as {"role": "user", "content": "..."}'
        raise CannotRender(what, remedy)
    content = message.get("content")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if set(kinds) != {"text"} or not all(isinstance(text, str) for text in texts):
            what = f"message {number} has parts that are no text"
            raise CannotRender(what, "give its text alone, or remove the record")
        message = {**message, "content": "".join(str(text) for text in texts)}
    elif content is None and not message.get("tool_calls"):
        raise CannotRender(f"message {number} has no content", "give its text, or remove the record")
    elif not isinstance(content, str | None):
        raise CannotRender(f"message {number} has a content that is no text", "give its text, or remove the record")
    if message.get("tool_calls"):
        message = {**message, "tool_calls": [_with_arguments(call) for call in message["tool_calls"]]}
    return dict(message)


def _with_arguments(call: Any) -> Any:
    """A call whose arguments are an object, as templates expect; OpenAI's form has them as text of JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    arguments = _from_json(function["arguments"])
    return {**call, "function": {**function, "arguments": arguments if arguments is not None else {}}}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CannotRender(f"{text[:40]!r} is no JSON", "correct the record") from None


def _without_null(value: Any) -> Any:
    """A value without the keys that are null: tables have every key in every row."""
    if isinstance(value, dict):
        return {name: _without_null(one) for name, one in value.items() if one is not None}
    return [_without_null(one) for one in value] if isinstance(value, list) else value
