"""The padding row of embeddings: drawn and trained like all others, whichever architecture keeps one."""

import contextlib
import copy
import sys
from pathlib import Path
from typing import Any

import document
import parity
import pytest
import torch
from forward import logits_of, randomised
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import build_empty, build_random, load_model, new_config, save_model, train_padding_rows
from inheritune.errors import InputError
from inheritune.inheritance import inherit
from inheritune.recipe import Reference

END = 1


def tokens() -> torch.Tensor:
    """Documents that end with `END`, which is the padding token too."""
    found = torch.randint(3, 60, (2, 17), generator=torch.Generator().manual_seed(3))
    found[:, [0, 5, 6, 15]] = END
    return found


def embeddings(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)]


def plain_model(kind: str, seed: int = 0) -> Any:
    """What transformers itself builds, with the end-of-text token as padding."""
    config = parity.config_of(kind)
    config.pad_token_id = END
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def check_kind(kind: str) -> None:
    plain = plain_model(kind)
    rows = {name: m.padding_idx for name, m in plain.named_modules() if m in embeddings(plain) and m.padding_idx}
    mine = build_random(copy.deepcopy(plain.config), 0)
    again = build_random(copy.deepcopy(plain.config), 0)
    assert all(module.padding_idx is None for module in embeddings(mine))
    # the architecture's own weights, but for rows that it starts at zero: these are like the others
    for name, module in plain.named_modules():
        if name not in rows:
            continue
        own, drawn = module.weight.detach(), mine.get_submodule(name).weight.detach()
        different = (own != drawn).any(1).nonzero().flatten().tolist()
        assert set(different) <= {rows[name]}
        others = torch.cat([own[: rows[name]], own[rows[name] + 1 :]])
        assert 0.5 < drawn[rows[name]].std() / others.std() < 1.6, f"{kind}: {name}"
        assert torch.equal(drawn, again.get_submodule(name).weight)
    # the same function
    randomised(mine, scale=0.1)
    plain.load_state_dict(mine.state_dict())
    inputs = tokens()
    assert torch.equal(logits_of(plain.eval(), inputs), logits_of(mine, inputs))
    # and its gradient is that of a row which is looked up in plain code
    if not rows or kind == "reformer":  # which cannot be trained in evaluation mode
        return
    mine.zero_grad()
    used: set[str] = set()  # RoCBert also embeds pronunciations and shapes, which are not given
    for name, row in rows.items():
        mine.get_submodule(name).register_forward_hook(
            lambda _, given, __, name=name, row=row: used.add(name) if (given[0] == row).any() else None
        )
    mine(input_ids=inputs[:, :-1], use_cache=False).logits[..., :20].sum().backward()
    for name, row in rows.items():
        gradient = mine.get_submodule(name).weight.grad
        assert gradient is not None
        assert gradient[row].any() or name not in used, f"{kind}: {name}"
    assert used, kind


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "opt", "gemma2", "roberta", "youtu", "gemma3n_text"])
def test_some_kinds(kind: str) -> None:
    check_kind(kind)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_every_kind(kind: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        if document.standing(kind)[0] == "yes":
            check_kind(kind)


def config(tied: bool = False) -> Any:
    return LlamaConfig(
        vocab_size=67, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, bos_token_id=END, eos_token_id=END, pad_token_id=END,
        tie_word_embeddings=tied,
    )  # fmt: skip


def trained(model: Any, steps: int = 3) -> Any:
    """Plain torch: the cross-entropy of the next token, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        logits = model.train()(input_ids=tokens()[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens()[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("way", ["random", "empty", "loaded", "inherited", "from files", "handed over"])
def test_training_is_that_of_a_model_without_padding(way: str, tied: bool, tmp_path: Path) -> None:
    """Independent: the same weights in a model whose config has no padding token, trained in the same plain way."""
    start = build_random(config(tied), 4)
    made = {
        "random": lambda: build_random(config(tied), 4),
        "empty": lambda: _filled(build_empty(config(tied), torch.float32), start),
        "loaded": lambda: load_model(Reference(path=str(_saved(start, tmp_path / "a")))),
        "inherited": lambda: inherit(start, "all"),
        "from files": lambda: inherit(_saved(start, tmp_path / "a"), "all"),
        "handed over": lambda: _handed_over(start, tied),
    }[way]()
    without = config(tied)
    without.pad_token_id = None
    plain = LlamaForCausalLM(without)
    plain.load_state_dict(start.state_dict())
    assert made.config.pad_token_id == END
    trained(made)
    trained(plain)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor), name
    assert not torch.equal(made.get_input_embeddings().weight[END], start.get_input_embeddings().weight[END])


def _filled(model: Any, start: Any) -> Any:
    model.load_state_dict(start.state_dict())
    return model


def _saved(model: Any, folder: Path) -> Path:
    save_model(model, None, folder)
    return folder


def _handed_over(start: Any, tied: bool) -> Any:
    model = _filled(LlamaForCausalLM(config(tied)), start)
    train_padding_rows(model)
    return model


@pytest.mark.parametrize("kind", ["llama", "youtu"])
def test_a_trained_row_is_there_when_the_saved_model_is_loaded(kind: str, tmp_path: Path) -> None:
    """Bit for bit, in plain transformers too. Youtu's code zeroes its padding row whenever it loads."""
    fields = parity.config_of(kind)
    fields.pad_token_id = END
    model = build_random(fields, 1)
    trained(model)
    save_model(model, None, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    mine = load_model(Reference(path=str(tmp_path / "model")))
    for name, tensor in model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor), name
        assert torch.equal(mine.state_dict()[name], tensor), name
    assert plain.config.pad_token_id == (END if kind == "llama" else None)


def test_a_new_tokenizer_has_no_padding(tokenizer: Any) -> None:
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.pad_token is None


def test_architectures_that_count_positions_by_padding_are_refused_without_it() -> None:
    fields = {"model_type": "roberta", "is_decoder": True, "num_hidden_layers": 1, "hidden_size": 8,
              "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
    with pytest.raises(
        InputError, match=r"roberta needs a padding token, and the tokenizer has none; name a tokenizer"
    ):
        new_config(fields, 67, {"eos_token_id": 0}, 16)
    assert new_config(fields, 67, {"eos_token_id": 0, "pad_token_id": 2}, 16).pad_token_id == 2
