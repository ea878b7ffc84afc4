"""A model of any shape from Python: units by importance, tokens that a text needs, blocks that are refitted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from inheritune.errors import InputError
from inheritune.recipe import FIRST_HALF


def test_all_axes_at_once_are_written_and_loaded(reference_folder: Path, text: Path, tmp_path: Path) -> None:
    made = inheritune.inherit(
        reference_folder, [0, 1, 3], heads=2, mlp=20, hidden=24, vocabulary=290, text=text, out=tmp_path / "out"
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    sizes = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size", "vocab_size")
    assert [getattr(loaded.config, name) for name in sizes] == [3, 2, 20, 24, 290]
    assert loaded.config.head_dim == 8
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 290
    ids = tokenizer("the small model", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**ids).logits, made(**ids).logits)
        cached = loaded.generate(**ids, max_new_tokens=4, do_sample=False)
        assert torch.equal(cached, loaded.generate(**ids, max_new_tokens=4, do_sample=False, use_cache=False))
    notes = json.loads((tmp_path / "out" / "inheritance.json").read_text())
    assert notes["units"]["kept"] == {"neurons": 20, "heads": 2, "hidden": 24}
    assert notes["units"]["rotated"]
    assert notes["refit"]["matrices"] == 6
    assert "20 neurons by error" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_refit_sees_the_text_with_all_tokens(reference_folder: Path, text: Path) -> None:
    fewer = inheritune.inherit(reference_folder, [0, 3], vocabulary=290, text=text).state_dict()
    every = inheritune.inherit(reference_folder, [0, 3], text=text).state_dict()
    plain = inheritune.inherit(reference_folder, [0, 3]).state_dict()
    blocks = [name for name in every if ".layers." in name]
    assert all(torch.equal(fewer[name], every[name]) for name in blocks)
    assert not all(torch.equal(plain[name], every[name]) for name in blocks)
    assert len(fewer["lm_head.weight"]) == 290


def test_chosen_units_are_better_than_the_first(reference_folder: Path, text: Path) -> None:
    """On the text that they were chosen on: the reference's random weights say nothing about other text."""
    whole = AutoModelForCausalLM.from_pretrained(reference_folder)
    words = [AutoTokenizer.from_pretrained(reference_folder)(file.read_text(encoding="utf-8"))["input_ids"][:60] for file in sorted(text.iterdir())[:8]]  # fmt: skip
    inputs = torch.tensor([one for one in words if len(one) == 60])
    far = {}
    for importance in ("first", "error"):
        small = inheritune.inherit(whole, "all", mlp=24, importance=importance, text=text, refit="none",
                                   tokenizer=AutoTokenizer.from_pretrained(reference_folder))  # fmt: skip
        with torch.no_grad():
            far[importance] = float((small(inputs).logits - whole(inputs).logits).square().mean())
    assert far["error"] < far["first"]


def test_the_tokenizer_of_a_loaded_model_is_saved_with_it(reference_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = (kind.from_pretrained(reference_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    inheritune.inherit(model, 2, tokenizer=tokenizer, out=tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer.get_vocab()


def test_without_text(reference_folder: Path) -> None:
    with pytest.raises(InputError, match="auto looks at the model at work on text, and there is none; give text"):
        inheritune.inherit(reference_folder, 2, mlp=20)
    with pytest.raises(InputError, match="tokens are chosen on text, and there is none"):
        inheritune.inherit(reference_folder, 2, vocabulary=200)
    with pytest.raises(InputError, match="8K tokens, and there is no text"):
        inheritune.inherit(reference_folder, 2, refit="8K tokens")
    with pytest.raises(InputError, match="'best' for neurons; legal are"):
        inheritune.inherit(reference_folder, 2, mlp=20, importance="best")
    by_weights = inheritune.inherit(reference_folder, 2, mlp=20, importance="magnitude")
    source = AutoModelForCausalLM.from_pretrained(reference_folder)
    for place, block in enumerate(by_weights.model.layers):
        norms = source.model.layers[place].mlp.down_proj.weight.norm(dim=0)
        kept = norms.topk(20).indices.sort().values
        assert torch.equal(block.mlp.down_proj.weight, source.model.layers[place].mlp.down_proj.weight[:, kept])
        assert torch.equal(block.mlp.up_proj.weight, source.model.layers[place].mlp.up_proj.weight[kept])


def test_the_first_units_need_no_text(reference_folder: Path) -> None:
    half = inheritune.inherit(reference_folder, 2, **FIRST_HALF)
    assert (half.config.hidden_size, half.config.num_attention_heads, half.config.intermediate_size) == (16, 2, 24)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"heads": 3}, "legal are 1, 2, 4"),
        ({"mlp": 49}, "49 of intermediate_size asked for, which is 48"),
        ({"head_size": 3}, "heads of 3 dimensions, of 8; legal are"),
        ({"experts": 2}, "experts are to be fewer, and its config gives no such width"),
        ({"mlp": 20, "submodules": ["mlp"]}, "units are chosen with submodules: all"),
    ],
)
def test_shapes_that_cannot_be(reference_folder: Path, text: Path, widths: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        inheritune.inherit(reference_folder, 2, text=text, **widths)


def test_smaller_heads_are_turned_as_before(reference_folder: Path) -> None:
    small = inheritune.inherit(reference_folder, "all", head_size=4)
    assert small.config.head_dim == 4
    assert small.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)
