"""A tokenizer that leaves ids out: the largest id counts, not the number of entries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import tiny_recipe
from inheritune.arch import check_tokenizer_fits, load_config, load_tokenizer
from inheritune.corpus import prepare
from inheritune.data import adopt
from inheritune.errors import InputError
from inheritune.evaluation import evaluate
from inheritune.experiment import run
from inheritune.recipe import Recipe, Reference, TokenFiles
from inheritune.token_ids import vocabulary_size

GAP = 100


@pytest.fixture(scope="module")
def gapped(tokenizer: Any) -> Any:
    """The tokenizer with all ids from 150 on moved up by 100, and one more special token far behind them."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = tree["model"]["vocab"]
    tree["model"]["vocab"] = {word: index + GAP * (index >= 150) for word, index in vocabulary.items()}
    special = dict(tree["added_tokens"][0], content="<|far|>", id=450)
    tree["model"]["vocab"]["<|far|>"] = 450
    tree["added_tokens"].append(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tree)), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    assert len(made) == 301
    assert max(made.get_vocab().values()) == 450
    return made


def test_its_size(gapped: Any, tokenizer: Any) -> None:
    assert vocabulary_size(gapped) == 451
    assert vocabulary_size(tokenizer) == len(tokenizer) == 300


def test_text_and_token_files(tmp_path: Path, text: Path, gapped: Any) -> None:
    made = prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, gapped, tmp_path / "data")
    assert len(gapped) <= made.manifest["largest_token"] < 451
    for split, name in (("train", "train.bin"), ("validation", "val.bin")):
        made.tokens(split).read().astype(np.uint16).tofile(tmp_path / name)
    files = TokenFiles(train=[str(tmp_path / "train.bin")], validation=[str(tmp_path / "val.bin")])
    adopted = adopt(files, gapped, tmp_path / "adopted")
    assert adopted.tokens("train").read().tolist() == made.tokens("train").read().tolist()
    np.array([1, 451], np.uint16).tofile(tmp_path / "val.bin")
    with pytest.raises(InputError, match="has token 451, the tokenizer has 451"):
        adopt(files, gapped, tmp_path / "refused")


@pytest.mark.long
def test_a_run_whose_reference_is_made_first(tmp_path: Path, text: Path, gapped: Any) -> None:
    gapped.save_pretrained(tmp_path / "tokenizer")
    tree = tiny_recipe(text) | {"controls": [], "grow": None}
    tree["reference"]["train"] |= {"tokenizer": str(tmp_path / "tokenizer"), "length": "3 steps"}
    recipe = Recipe.model_validate(tree | {"train": tree["train"] | {"length": "3 steps"}})
    summary = run(recipe, tmp_path / "run")
    config = load_config(Reference(path=str(tmp_path / "run/reference/model")))
    assert config.vocab_size == 451
    model = tmp_path / "run" / summary.result.model
    check_tokenizer_fits(load_tokenizer(Reference(path=str(model))), config, "here")
    judged = evaluate(str(model), tmp_path / "run/data", 16)
    assert judged.models[0].val_loss == pytest.approx(summary.result.val_loss, rel=1e-5)
