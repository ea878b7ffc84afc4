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


class Slurm(Part):
    """What a Slurm cluster needs to know of the tasks of `data.executor: slurm`."""

    partition: Annotated[str, Field(min_length=1)]
    """The partition that jobs are given to."""
    time: Annotated[str, Field(min_length=1)]
    """Time limit of a task, as sbatch takes it, e.g. `04:00:00`."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    """Processors of a task."""
    gigabytes_per_cpu: Annotated[int, Field(ge=1)] = 2
    """Memory for each processor."""
    qos: str | None = None
    """Quality of service. Default: the cluster's."""
    environment: str | None = None
    """Shell command that makes Python with inheritune available, run first. Default: the Python that submits."""
    sbatch: dict[str, str] = {}
    """Further options of sbatch, by their long names."""


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
    executor: Literal["local", "slurm", "ray"] = "local"
    """Where the text is read, filtered and tokenised: in processes of this machine, as Slurm jobs, or on a Ray cluster.
    The result is the same, to the byte. The folders must be seen by all machines."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Tasks at the same time. Default: as many as there are processors (local), or as the cluster allows."""
    slurm: Slurm | None = None
    """Needed with `executor: slurm`, and only there."""

    @model_validator(mode="after")
    def _cluster(self) -> Self:
        if (self.executor == "slurm") != (self.slurm is not None):
            raise ValueError(
                "slurm: executor slurm needs its partition and time, as in slurm: {partition: cpu, time: '04:00:00'}"
                if self.slurm is None
                else f"slurm: these settings belong to executor slurm, it is {self.executor}"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.sources) == (self.prepared is not None):
            raise ValueError(
                "give either sources (text to prepare) or prepared (a folder that `inheritune prepare` wrote)"
            )
        titles = [source.title for source in self.sources]
        if len(set(titles)) < len(titles):
            raise ValueError("two sources have the same name or path; give each its own `name`")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("give every source a weight, or none")
        if self.size is None and any(source.weight is not None for source in self.sources):
            raise ValueError("weights share out `size`; give data.size, or leave the weights away")
        return self
