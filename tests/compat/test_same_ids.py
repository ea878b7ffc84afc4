"""Tokenizers that are written beside a model give transformers 4 the ids that they give transformers 5."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import test_gguf
import test_tokenizers as sentencepiece
from other_python import read_by_4
from reader import tokenizer_facts
from tokenizers import pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CodeLlamaTokenizer,
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OpenAIGPTTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from conftest import SENTENCE
from inheritune.arch import find_tokenizer, load_tokenizer, readers_in, save_model, silence_libraries
from inheritune.data import train_tokenizer
from inheritune.recipe import Reference

TEXTS = [*sentencepiece.NASTY, "<s>x</s> y", "<|endoftext|>a", "a<extra>b <extra> c"]


def byte_level(**changes: Any) -> Any:
    """GPT-2's kind, learnt from a sentence."""
    tokenizer = train_tokenizer(iter([SENTENCE] * 3), 280)
    core = tokenizer.backend_tokenizer
    if changes.pop("prefix_space", False):
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if changes.pop("bos", False):
        start = ("<|endoftext|>", 0)
        core.post_processor = processors.TemplateProcessing("<|endoftext|> $A", "<|endoftext|> $A $B", [start])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=core, **{**names, **changes})


def of_class(kind: Any) -> Any:
    """A tokenizer of a class of transformers' own that builds its parts itself."""
    core = json.loads(byte_level().backend_tokenizer.to_str())["model"]
    return kind(vocab=core["vocab"], merges=[tuple(pair) for pair in core["merges"]], unk_token="<|endoftext|>")


def of_letters(kind: Any, special: list[str]) -> Any:
    """A tokenizer of a class of transformers' own whose entries are letters, and a space in SentencePiece's spelling."""
    entries = [*special, "▁", *sorted({*SENTENCE, *"ABCxyz0123456789"} - {" "})]
    return kind(vocab={entry: index for index, entry in enumerate(entries)}, merges=[])


def cases(place: Path) -> Iterator[tuple[str, Any]]:
    """Tokenizers by name, each from files of another kind."""
    yield "byte level", byte_level()
    yield "byte level with a start token", byte_level(bos=True)
    yield "byte level with a space before the text", byte_level(prefix_space=True)
    further = byte_level(padding_side="left", model_max_length=77)
    further.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    further.add_tokens(["<tool>"])
    further.chat_template = "{% for m in messages %}<extra>{{ m['content'] }}{% endfor %}"
    yield "more tokens, a chat template, padding", further
    yield "GPT2Tokenizer", of_class(GPT2Tokenizer)
    yield "Qwen2Tokenizer", of_class(Qwen2Tokenizer)
    yield "GPTNeoXTokenizer", of_class(GPTNeoXTokenizer)
    yield "CohereTokenizer", of_class(CohereTokenizer)
    yield "GemmaTokenizer", of_letters(GemmaTokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    yield "CodeLlamaTokenizer", of_letters(CodeLlamaTokenizer, ["<unk>", "<s>", "</s>"])
    yield "OpenAIGPTTokenizer", of_letters(OpenAIGPTTokenizer, ["<unk>"])
    for name, (settings, fields) in sentencepiece.KINDS.items():
        sentencepiece.train(place / name, **settings)
        sentencepiece.settle(place / name, **fields)
        yield f"SentencePiece: {name}", load_tokenizer(Reference(path=str(place / name)))
    sentencepiece.train(place / "plain")
    sentencepiece.settle(place / "plain")
    yield "LlamaTokenizer", AutoTokenizer.from_pretrained(place / "plain")
    test_gguf.write(test_gguf.original(), place / "tiny.gguf")
    yield "gguf", load_tokenizer(Reference(path=str(place / "tiny.gguf")))


def test_the_same_ids_in_both(tmp_path: Path) -> None:
    silence_libraries()
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    expected, needs_5 = {}, []
    for name, tokenizer in cases(tmp_path / "sources"):
        folder = tmp_path / "written" / name.replace(":", "")
        save_model(model, tokenizer, folder / "model")
        expected[folder.name] = tokenizer_facts(tokenizer, TEXTS)
        (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
        for again in (
            AutoTokenizer.from_pretrained(folder / "model"),
            find_tokenizer(Reference(path=str(folder / "model"))),
        ):
            assert tokenizer_facts(again, TEXTS) == expected[folder.name], name
        if readers_in(folder / "model").reason_for_5:
            needs_5.append(folder.name)
    found = read_by_4(tmp_path / "written")["found"]
    wrong = {
        name: {key: (found[name].get(key), value) for key, value in one.items() if found[name].get(key) != value}
        for name, one in expected.items()
    }
    assert {name: found[name].get("error", one) for name, one in wrong.items() if one and name not in needs_5} == {}
    assert [name for name in needs_5 if not wrong[name]] == []
    assert needs_5 == ["SentencePiece spaces behind words"]
