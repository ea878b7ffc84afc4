"""The recipe's `data`: which text, how much of it, and what is set apart for validation."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inheritune.recipe.base import Part
from inheritune.recipe.size import Size, Tokens

DocumentRule = Literal["auto", "file", "line", "blank line", "record", "string literal"]


class Source(Part):
    """Text from a file or a folder."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder (searched at every depth) or a pattern such as `docs/*/text`.
    `{stdlib}` stands for the folder of the running Python's standard library. Relative to the working directory."""
    name: str | None = None
    """What the manifest calls this source. Default: its path."""
    include: list[str] = ["*.txt", "*.md", "*.rst", "*.jsonl"]
    """File-name patterns taken from a folder; `**` and `/` are matched against the path below the folder."""
    exclude: list[str] = []
    """Patterns left out, after `include`."""
    document: DocumentRule = "auto"
    """How a file falls into documents: the whole file, each line, each block between blank lines, each JSON record
    (of a .jsonl file), or each string literal of a Python file. `auto`: record for .jsonl, file for all else."""
    text_key: str = "text"
    """The key that holds a JSON record's text."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of `data.size` to take from this source, relative to the other weights. Given for all sources or for none;
    without weights documents are drawn from all sources alike."""

    @property
    def title(self) -> str:
        """The name that messages and manifests use."""
        return self.name or self.path


class TokenFiles(Part):
    """Files of tokens that the reference's tokenizer has made, used as they are and where they are.

    .bin: uint16 without a header, as nanoGPT writes them. .ds: datatrove's, uint16 or uint32 as the .metadata beside
    says, else by the size of the vocabulary. Files or patterns, in this order; those of a pattern by name.
    """

    train: Annotated[list[str], Field(min_length=1)]
    """Training tokens: .bin or .ds files."""
    validation: Annotated[list[str], Field(min_length=1)]
    """Validation tokens, of the same type."""


class Data(Part):
    """Training and validation text, exact to the token."""

    sources: list[Source] = []
    """Where the text comes from."""
    prepared: Path | None = None
    """Instead of `sources`: a folder that `inheritune prepare` wrote, or one with nanoGPT's train.bin and val.bin."""
    tokens: TokenFiles | None = None
    """Instead of `sources`: token files of nanoGPT or datatrove."""
    size: Tokens | None = None
    """Training tokens: whole documents drawn at random with the seed, the last one cut. Default: all there are."""
    validation: Tokens = Size(100_000, "tokens")
    """Whole documents, chosen by a hash of their content and kept out of training, until at least so many tokens."""
    seed: int | None = None
    """Draws the documents. Default: the recipe's seed."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum([bool(self.sources), self.prepared is not None, self.tokens is not None]) != 1:
            raise ValueError(
                "give either sources (text to prepare), prepared (a folder that `inheritune prepare` wrote) or tokens"
                " (token files)"
            )
        if not self.sources and (self.size is not None or self.seed is not None):
            raise ValueError("size and seed draw from sources; leave them away, as all that is prepared is used")
        titles = [source.title for source in self.sources]
        if len(set(titles)) < len(titles):
            raise ValueError("two sources have the same name or path; give each its own `name`")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("give every source a weight, or none")
        if self.size is None and any(source.weight is not None for source in self.sources):
            raise ValueError("weights share out `size`; give data.size, or leave the weights away")
        return self
