"""Chat templates: the same text and ids as transformers, and the assistant's turns against independent ways."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chats import MARKED, PLAIN, chat_tokenizer, slow_chat
from inheritune.data import BEGINS, COUNTS, CannotRender, ChatTemplate, Conversation
from inheritune.errors import InputError

LLAMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message.role + '<|im_start|>\n\n'"
    " + message.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_start|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '[INST] ' + message.content + ' [/INST]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content + eos_token }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}"
    "{% endfor %}"
)
WITHOUT_END = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
FORGETS = (  # as some do with the reasoning of earlier turns
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
CHATS = st.tuples(
    st.lists(TEXTS, max_size=1), st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans()
).map(
    lambda drawn: (
        [{"role": "system", "content": text} for text in drawn[0]]
        + [
            {"role": role, "content": text}
            for pair in drawn[1]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        + ([{"role": "user", "content": "and now?"}] if drawn[2] else [])
    )
)


@pytest.fixture(scope="module")
def plain(tokenizer: Any) -> Any:
    return chat_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def marked(tokenizer: Any) -> Any:
    return chat_tokenizer(tokenizer, MARKED)


def encoded(tokenizer: Any, chat: list[dict[str, Any]], assistant_only: bool = True) -> tuple[list[int], list[bool]]:
    template = ChatTemplate(tokenizer, "test", assistant_only)
    [(ids, marks)] = template.encode([template.render(Conversation(chat))])
    assert marks[0] == BEGINS
    assert not (marks[1:] & BEGINS).any()
    return ids, (marks & COUNTS > 0).tolist()


@given(CHATS)
@settings(max_examples=60, deadline=None)
def test_ids_and_turns_are_those_of_transformers(plain: Any, marked: Any, chat: list[dict[str, Any]]) -> None:
    expected = marked.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    for tokenizer in (plain, marked):  # with marks, and from the texts before and after a turn
        ids, counted = encoded(tokenizer, chat)
        assert ids == expected["input_ids"] == tokenizer.apply_chat_template(chat)["input_ids"]
        assert counted == [bool(one) for one in expected["assistant_masks"]]


@given(CHATS)
@settings(max_examples=30, deadline=None)
def test_turns_are_those_put_together_by_hand(plain: Any, chat: list[dict[str, Any]]) -> None:
    ids, counted = encoded(plain, chat)
    expected, own = slow_chat(plain, chat)
    spelt = [
        [one for one, counts in zip(some, which, strict=True) if counts]
        for some, which in ((ids, counted), (expected, own))
    ]
    assert plain.decode(spelt[0]) == plain.decode(spelt[1])
    if all(message["content"].isalnum() for message in chat):  # else a line's end and what follows may be one token
        assert (ids, counted) == (expected, own)


def test_all_text_counts_but_the_first_token(plain: Any) -> None:
    ids, counted = encoded(plain, [{"role": "user", "content": "hello"}], assistant_only=False)
    assert counted == [False] + [True] * (len(ids) - 1)


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (LLAMA, ["yes<|im_end|>", "the small model<|im_end|>"]),
        (MISTRAL, [" yes<|im_end|>", " the small model<|im_end|>"]),
        (WITHOUT_END, ["yes\n", "the small model\n"]),
    ],
)
def test_templates_of_other_kinds(tokenizer: Any, template: str, turns: list[str]) -> None:
    own = chat_tokenizer(tokenizer, template)
    chat = [
        {"role": role, "content": text}
        for role, text in (
            ("user", "is it?"),
            ("assistant", "yes"),
            ("user", "which one"),
            ("assistant", "the small model"),
        )
    ]
    rendered = ChatTemplate(own, "test", assistant_only=True).render(Conversation(chat))
    assert [rendered.text[start:end] for start, end in rendered.counted] == turns


def test_text_as_a_users_message(plain: Any) -> None:
    rendered = ChatTemplate(plain, "test", assistant_only=True).as_user(" the small model\n")
    assert rendered.text == plain.apply_chat_template(
        [{"role": "user", "content": " the small model\n"}], tokenize=False
    )
    assert [rendered.text[start:end] for start, end in rendered.counted] == ["the small model"]


def test_prompts_end_where_the_assistant_begins(plain: Any) -> None:
    chat = [{"role": "user", "content": "hello"}]
    expected = plain.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(plain, "test", assistant_only=False).prompt(Conversation(chat)) == expected


ESCAPES = "{{ messages.__class__.__mro__ }}"
USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("template", "chat", "message"),
    [
        (FORGETS, [USER, ASSISTANT] * 2, "does not show where message 2 of 4 begins"),
        (PLAIN, [USER], "no turn of the assistant"),
        (ESCAPES, [USER, ASSISTANT], "does not take it .access to attribute '__class__'"),
        (PLAIN, [ASSISTANT, USER], "begins with the assistant"),
        (MISTRAL, [{"role": "system", "content": "c"}, USER, ASSISTANT], "only user and assistant"),
        (PLAIN.replace("{% for", "{% generation %}{% endgeneration %}{% for"), [USER, ASSISTANT], "marks no turn"),
    ],
)
def test_what_a_template_cannot_do_is_said(tokenizer: Any, template: str, chat: Any, message: str) -> None:
    with pytest.raises(CannotRender, match=message):
        ChatTemplate(chat_tokenizer(tokenizer, template), "test", assistant_only=True).render(Conversation(chat))


def test_a_template_that_forgets_serves_where_all_text_counts_and_where_one_turn_is(tokenizer: Any) -> None:
    own = chat_tokenizer(tokenizer, FORGETS)
    for chat, only in (([USER, ASSISTANT] * 2, False), ([USER, ASSISTANT], False)):
        text = ChatTemplate(own, "test", only).render(Conversation(chat)).text
        assert text == own.apply_chat_template(chat, tokenize=False)


def test_a_tokenizer_without_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="here: conversations need a chat template, and the tokenizer has none"):
        ChatTemplate(tokenizer, "here", assistant_only=False)


def test_another_template_or_another_loss_has_another_digest(plain: Any, marked: Any) -> None:
    templates = [ChatTemplate(one, "test", only) for one in (plain, marked) for only in (True, False)]
    assert len({one.digest for one in templates}) == 4


def test_marks_are_bytes(plain: Any) -> None:
    template = ChatTemplate(plain, "test", assistant_only=True)
    [(ids, marks)] = template.encode([template.render(Conversation([USER, ASSISTANT]))])
    assert (marks.dtype, len(marks)) == (np.uint8, len(ids))
