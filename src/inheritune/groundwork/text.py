"""The data stage: what a recipe says of its text, as prepared data in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.arch import load_tokenizer
from inheritune.corpus import prepare, remove_left_over
from inheritune.data import Prepared, adopt, nanogpt_files, note_beside, open_prepared
from inheritune.recipe import Basis, NewTokenizer, Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_data(basis: Basis, out: Path, say: Callable[[str], None], *, compare: bool = False) -> Prepared:
    """Fill `out` with the recipe's data, or link it to where they are.

    What is there already is verified; NAME-verified.json beside it keeps what was, so that it is not read each time.
    With `compare` it must be of the same request; in a run's folder its recipe says so.
    Raises InputError for text, tokens or a tokenizer that will not do.
    """
    data, note = basis.data, note_beside(out)
    if not compare and out.exists() and any(out.iterdir()):
        remove_left_over(out)
        found = open_prepared(out)
        found.verify(note)
        return found
    files = data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)
    if data.prepared is not None and files is None:
        open_prepared(data.prepared).verify(note)
        out.symlink_to(data.prepared.resolve(), target_is_directory=True)
        return open_prepared(out)
    tokenizer = _tokenizer(basis, say)
    if files is not None:
        assert not isinstance(tokenizer, NewTokenizer)  # the recipe's check
        say("data: reading the token files")
        return adopt(files, tokenizer, out)
    return prepare(data, tokenizer, out, seed=basis.seed, say=say)


def _tokenizer(basis: Basis, say: Callable[[str], None]) -> "PreTrainedTokenizerBase | NewTokenizer":
    new = basis.reference.train
    if new is None:
        return load_tokenizer(basis.reference, say)
    if isinstance(new.tokenizer, NewTokenizer):
        return new.tokenizer
    return load_tokenizer(Reference(path=new.tokenizer))
