"""Models with fewer tokens, from memory, files and .gguf, against plain indexing and the logits of the whole model."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import logits_of, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from arch.test_gguf import TOKENS, original
from arch.test_gguf import write as write_gguf
from conftest import read_json, stored_tensors
from inheritune.arch import Selection, composed, load_tokenizer
from inheritune.errors import InputError
from inheritune.inheritance import (
    TargetSpec,
    derive,
    draft_target,
    needed_tokens,
    plan_rows,
    target_config,
    trim_vocabulary,
)
from inheritune.recipe import Reference

SIZE = 200
KEPT = (0, 1, 2, 5, 7, *range(20, 60), 61, 63, 65, *range(150, 200, 7))


def llama(**fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=SIZE, num_hidden_layers=3, **sizes, **ids, **fields)).eval()


def some(count: int) -> torch.Tensor:
    return torch.randint(0, count, (2, 12), generator=torch.Generator().manual_seed(1))


def expected_logits(model: PreTrainedModel, kept: tuple[int, ...], tokens_BT: torch.Tensor) -> torch.Tensor:
    ids = torch.tensor(kept)
    return logits_of(model, ids[tokens_BT])[..., ids]


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_kept_tokens_are_the_reference_s(tied: bool, tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=tied)
    model.generation_config.suppress_tokens = [5, 6]
    model.save_pretrained(tmp_path / "whole")
    expected = expected_logits(model, KEPT, some(len(KEPT)))
    spec = TargetSpec((0, 1, 2), width=Selection(vocabulary=KEPT))
    for source in (model, Reference(path=str(tmp_path / "whole"))):
        target, plan = derive(source, spec)
        torch.testing.assert_close(logits_of(target, some(len(KEPT))), expected, rtol=0, atol=1e-6)
        rows = model.state_dict()["lm_head.weight"][list(KEPT)]
        assert torch.equal(target.state_dict()["lm_head.weight"], rows)
        assert (target.get_input_embeddings().weight is target.get_output_embeddings().weight) is tied
        assert target.config.vocab_size == len(KEPT)
        for fields in (target.config, target.generation_config):
            assert (fields.bos_token_id, fields.eos_token_id, fields.pad_token_id) == (1, [2, 4], 0)
        assert target.generation_config.suppress_tokens == [3]
        assert plan.dropped == ()
        target.save_pretrained(tmp_path / "small")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
        assert torch.equal(logits_of(again, some(len(KEPT))), logits_of(target, some(len(KEPT))))


def test_blocks_width_and_tokens_go_at_once(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    width = Selection(neurons=((0, 3, 4), (5, 6, 40)), hidden=tuple(range(4, 28)), vocabulary=KEPT)
    for source in (model, Reference(path=str(tmp_path))):
        target, _ = derive(source, TargetSpec((0, 2), width=width))
        tensors, whole = target.state_dict(), model.state_dict()
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(tensors[name], whole[name][list(KEPT)][:, 4:28])
        gate = whole["model.layers.2.mlp.gate_proj.weight"]
        assert torch.equal(tensors["model.layers.1.mlp.gate_proj.weight"], gate[[5, 6, 40]][:, 4:28])
    config = target_config(model.config, TargetSpec((0, 2), width=width))
    assert (config.vocab_size, config.num_hidden_layers, config.intermediate_size) == (len(KEPT), 2, 3)


def test_tables_with_a_slice_for_each_block_lose_rows_and_slices() -> None:
    torch.manual_seed(0)
    config = tiny_config("gemma3n_text", vocab_size=80, vocab_size_per_layer_input=70, num_kv_shared_layers=0)
    model = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    kept = (0, 1, 2, *range(10, 40, 3), 69, 72, 79)
    target, _ = derive(model, TargetSpec((0, 1, 2), width=Selection(vocabulary=kept)))
    short, _ = derive(model, TargetSpec((0, 1, 2)))
    assert (target.config.vocab_size, target.config.vocab_size_per_layer_input) == (16, 14)
    tokens_BT = some(len(kept))
    torch.testing.assert_close(logits_of(target, tokens_BT), expected_logits(short, kept, tokens_BT), rtol=0, atol=1e-5)
    with pytest.raises(
        InputError, match="tokens from 70 on take the per-layer embedding of token 0, which is not kept"
    ):
        config.pad_token_id = None
        config.bos_token_id = None
        target_config(config, TargetSpec((0,), width=Selection(vocabulary=(1, 2, 79))))


def test_only_the_kept_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama().save_pretrained(tmp_path)
    real, read = os.preadv, list[int]()

    def counted(file: int, buffers: Any, at: int) -> int:
        read.append(real(file, buffers, at))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    derive(Reference(path=str(tmp_path)), TargetSpec((0, 1, 2), width=Selection(vocabulary=KEPT)))
    assert sum(read) == 2 * len(KEPT) * 32 * 4  # embeddings and head


@pytest.mark.parametrize(
    ("fields", "kept", "said"),
    [
        ({}, (0, 1, 2, 5), r"eos_token_id is token 7, which is not kept; keep token 7"),
        ({}, (0, 1, 2, 7, 200), "token 200 is selected; its tokens are 0 to 199"),
        ({"image_token_index": 30}, (0, 1, 2, 7), "image_token_index is token 30"),
        ({"vision_token_ids": [1, 30]}, (0, 1, 2, 7), "vision_token_ids is token 30"),
    ],
)
def test_what_must_stay_is_named(fields: dict[str, Any], kept: tuple[int, ...], said: str) -> None:
    config = llama().config
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=said):
        target_config(config, TargetSpec((0,), width=Selection(vocabulary=kept)))


def test_settings_for_generation_that_name_a_dropped_token() -> None:
    model = llama()
    model.generation_config.forced_bos_token_id = 100
    with pytest.raises(InputError, match="generation_config: forced_bos_token_id is token 100, which is not kept"):
        derive(model, TargetSpec((0,), width=Selection(vocabulary=KEPT)))
    model.generation_config.forced_bos_token_id, model.generation_config.bad_words_ids = None, [[3]]
    with pytest.raises(
        InputError, match="has bad_words_ids, whose tokens cannot be numbered anew; remove bad_words_ids"
    ):
        derive(model, TargetSpec((0,), width=Selection(vocabulary=KEPT)))


def test_a_plan_does_not_write_out_thousands_of_rows() -> None:
    spec = TargetSpec((0,), width=Selection(vocabulary=tuple(sorted({0, 1, 2, 7, *range(0, 200, 3)}))))
    rows = {row["target"]: row["slice"] for row in plan_rows(draft_target(llama(), spec).plan, 4)}
    assert rows["lm_head.weight"] == "[70 of 0:199, 0:32]"
    assert rows["model.norm.weight"] == "all"


@given(st.lists(st.integers(0, 30), min_size=1, unique=True).map(sorted), st.data())
def test_indices_of_indices(outer: list[int], data: st.DataObject) -> None:
    inner = sorted(data.draw(st.sets(st.integers(0, len(outer) - 1), min_size=1)))
    first, second = (Selection(vocabulary=tuple(some)).vocabulary for some in (outer, inner))
    assert first is not None
    assert second is not None
    runs = [tuple((index, index + 1) for index in some) for some in (first, second)]
    made = composed(runs[0], runs[1])
    assert [index for start, stop in made for index in range(start, stop)] == [outer[index] for index in inner]


TEXTS = ["the small model keeps some blocks", "and the large one's blocks", "it reads\n  and keeps"]


def check_trimmed(
    source: Any, whole: PreTrainedModel, judge: Any, out: Path, texts: list[str] = TEXTS, **more: Any
) -> Any:
    """The written checkpoint, loaded by plain transformers: same split, same logits, and it generates."""
    result = trim_vocabulary(source, texts, out=out, **more)
    small, its = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    assert read_json(out / "vocabulary.json") == {"kept": list(result.kept), "of": whole.config.vocab_size}
    assert len(its) == small.config.vocab_size == len(result.kept) < whole.config.vocab_size == result.of
    for text in texts:
        before, after = (one(text, return_tensors="pt")["input_ids"] for one in (judge, its))
        assert [result.kept[index] for index in after[0].tolist()] == before[0].tolist()
        expected = logits_of(whole, before)[..., list(result.kept)]
        torch.testing.assert_close(logits_of(small, after), expected, rtol=0, atol=1e-5)
    made = small.generate(its(texts[0], return_tensors="pt")["input_ids"], max_new_tokens=5, do_sample=False)
    assert its.decode(made[0]).startswith(texts[0])
    assert result.kept[its.eos_token_id] == judge.eos_token_id
    return result


def test_a_folder_becomes_a_folder(reference_folder: Path, tmp_path: Path) -> None:
    whole, tokenizer = (
        AutoModelForCausalLM.from_pretrained(reference_folder),
        AutoTokenizer.from_pretrained(reference_folder),
    )
    result = check_trimmed(reference_folder, whole.eval(), tokenizer, tmp_path / "small")
    assert result.kept == needed_tokens(tokenizer, TEXTS)
    assert result.parameters == sum(tensor.numel() for tensor in stored_tensors(tmp_path / "small").values())
    with pytest.raises(InputError, match="exists already"):
        trim_vocabulary(reference_folder, TEXTS, out=tmp_path / "small")
    # the result is a reference like any other
    target, _ = derive(Reference(path=str(tmp_path / "small")), TargetSpec((0, 3)))
    assert target.config.vocab_size == len(result.kept)


def test_a_model_in_memory_needs_its_tokenizer(reference_folder: Path, tmp_path: Path) -> None:
    whole, tokenizer = (
        AutoModelForCausalLM.from_pretrained(reference_folder),
        AutoTokenizer.from_pretrained(reference_folder),
    )
    check_trimmed(whole, whole.eval(), tokenizer, tmp_path / "small", tokenizer=tokenizer, size=290)
    with pytest.raises(InputError, match="comes without a tokenizer; give the tokenizer"):
        trim_vocabulary(whole, TEXTS, out=tmp_path / "other")
    with pytest.raises(InputError, match=r"vocabulary: 100 tokens are asked for; legal are 257 .* to 299"):
        trim_vocabulary(whole, TEXTS, 100, tokenizer=tokenizer, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_gguf_file_becomes_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(original(), file)
    texts = [text.replace("the", "") for text in TEXTS]
    tokenizer = load_tokenizer(Reference(path=str(file)))
    result = check_trimmed(file, original(), tokenizer, tmp_path / "small", texts)
    assert [token for index, token in enumerate(TOKENS) if index not in result.kept] == ["th", "the", "Ġthe"]
    trim_vocabulary(file, texts, out=tmp_path / "half", dtype=torch.bfloat16)
    assert read_json(tmp_path / "half" / "config.json")["dtype"] == "bfloat16"


def test_rows_that_no_token_has_go_and_named_ones_stay(reference_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_folder)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0,
        eos_token_id=0, sep_token_id=299,
    )  # fmt: skip
    result = trim_vocabulary(LlamaForCausalLM(config), TEXTS, tokenizer=tokenizer, out=tmp_path / "small")
    assert result.of == 320
    assert result.kept == tuple(sorted({*needed_tokens(tokenizer, TEXTS), 299}))
    assert read_json(tmp_path / "small" / "config.json")["sep_token_id"] == len(result.kept) - 1


@settings(deadline=None, max_examples=20)
@given(kept=st.sets(st.integers(8, SIZE - 1), max_size=SIZE - 9))
def test_any_tokens(kept: set[int]) -> None:
    tokens = tuple(sorted({0, 1, 2, 7, *kept}))
    model = llama()
    target, _ = derive(model, TargetSpec((1,), width=Selection(vocabulary=tokens)))
    short, _ = derive(model, TargetSpec((1,)))
    tokens_BT = some(len(tokens))
    torch.testing.assert_close(
        logits_of(target, tokens_BT), expected_logits(short, tokens, tokens_BT), rtol=0, atol=1e-6
    )
