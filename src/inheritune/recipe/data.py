"""The recipe's `data`: which text, how much of it, and what is set apart for validation."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inheritune.recipe.base import Part
from inheritune.recipe.filters import Filters
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


class Data(Part):
    """Training and validation text, exact to the token."""

    sources: list[Source] = []
    """Where the text comes from."""
    prepared: Path | None = None
    """Instead of `sources`: a folder that `inheritune prepare` wrote."""
    size: Tokens | None = None
    """Training tokens: whole documents drawn at random with the seed, the last one cut. Default: all there are."""
    validation: Tokens = Size(100_000, "tokens")
    """Whole documents, chosen by a hash of their content and kept out of training, until at least so many tokens."""
    seed: int | None = None
    """Draws the documents. Default: the recipe's seed."""
    filters: Filters = []
    """Which documents are left out, in this order: names, or mappings of `filter` and its options. Those that compare
    all documents (exact_duplicates, near_duplicates) come last."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.sources) == (self.prepared is not None):
            raise ValueError(
                "give either sources (text to prepare) or prepared (a folder that `inheritune prepare` wrote)"
            )
        if self.filters and self.prepared is not None:
            raise ValueError("filters are for sources; prepared tokens stay as they are: leave filters away")
        titles = [source.title for source in self.sources]
        if len(set(titles)) < len(titles):
            raise ValueError("two sources have the same name or path; give each its own `name`")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("give every source a weight, or none")
        if self.size is None and any(source.weight is not None for source in self.sources):
            raise ValueError("weights share out `size`; give data.size, or leave the weights away")
        return self
