"""The recipe's `data`: which text, how much of it, and the share for validation."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from inheritune.recipe.encodings import parse_encoding
from inheritune.recipe.filters import Filters
from inheritune.settings.part import Part
from inheritune.settings.size import In, Size, Tokens, parse_size

DocumentRule = Literal["auto", "file", "line", "blank line", "record", "string literal"]

_PLAIN = ("txt", "md", "rst", "jsonl", "ndjson", "csv")
_INCLUDE = [f"*.{kind}{packed}" for packed in ("", ".gz", ".zst") for kind in _PLAIN] + ["*.parquet"]


def parse_document(value: Any) -> Any:
    """Read `document`: the name of a rule, or a size in characters. Raises ValueError with what is legal."""
    if value in get_args(DocumentRule):
        return value
    try:
        return parse_size(value, ("characters",))
    except ValueError:
        legal = ", ".join(get_args(DocumentRule))
        raise ValueError(f"legal are {legal}, or a size in characters above 0 such as '2K characters'") from None


class Source(Part):
    """Text from files, on this machine or behind an address, or from a hub data set that is streamed."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A file, a folder (searched at every depth), a folder that `datasets` wrote with `save_to_disk`, a pattern such as
    `docs/*/text`, or an address of any of these: `s3://`, `gs://`, `hf://`, `https://` and whatever else fsspec knows.
    `{stdlib}` is the folder of the running Python's standard library. Relative to the working directory. Either this or
    `dataset`."""
    dataset: Annotated[str, Field(min_length=1)] | None = None
    """A data set of the Hugging Face hub by id, or a local folder that is one. It is streamed: its files are shuffled,
    and documents drawn from a buffer. `path: hf://datasets/...` reads its files instead, and so draws from all of
    it."""
    config: str | None = None
    """The data set's configuration (its subset). Default: the only one, or the one it declares as default."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """The split of the data set, or of a folder that `DatasetDict.save_to_disk` wrote."""
    revision: str | None = None
    """The data set's branch, tag or commit. Default: the newest. Only a commit always gives the same text."""
    buffer: Annotated[int, Field(ge=1)] = 10_000
    """How many documents of a data set are held in memory while one of them is drawn."""
    name: str | None = None
    """The name of this source in the manifest. Default: its path, or its data set."""
    include: list[str] = _INCLUDE
    """Patterns of the file names to take from a folder; a pattern with `/` is compared with the path below the
    folder."""
    exclude: list[str] = []
    """Patterns of files to exclude from those of `include`."""
    document: Annotated[DocumentRule | Annotated[Size, In("characters")], BeforeValidator(parse_document)] = "auto"
    """How a file is divided into documents: the whole file, each line, each block between blank lines, each record (a
    line of JSON, a row of .csv, .parquet or .arrow), each string literal of a Python file, or pieces of a size such as
    `2K characters`, cut at white space where there is some near the end. `auto`: record for .jsonl, .ndjson, .csv,
    .parquet and .arrow, file for all others."""
    encoding: Annotated[str, BeforeValidator(parse_encoding)] = "utf-8"
    """The character encoding of text files: any that Python knows, such as `latin-1`, `cp1252` or `utf-16`, or `auto`,
    which decides for each file from its bytes and reports its choice. .parquet and .arrow need none."""
    text_key: Annotated[str, Field(min_length=1)] = "text"
    """The key or column that holds a record's text."""
    messages_key: Annotated[str, Field(min_length=1)] | None = None
    """The key or column that holds a conversation, mostly `messages`: a list of messages with `role` and `content`
    (ShareGPT's `from` and `value` too). Each record is then a conversation, which the chat template of the model turns
    into text. Default: records have text."""
    on_error: Literal["stop", "skip"] = "stop"
    """What happens at text that cannot be read: stop with its place, or skip it and count it."""
    limit: Tokens | None = None
    """At most so many training tokens from this source. Default: no limit."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of `data.size` to take from this source, relative to the other weights. Given for all sources or for none;
    without weights one draw takes documents from all sources."""

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or not name.isprintable()):
            raise ValueError("a name is one line of printable characters; give another one, or remove it")
        return name

    @model_validator(mode="after")
    def _files_or_stream(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path (files) or dataset (streamed from the hub), one of the two")
        kind, others = ("path", _STREAM_KEYS) if self.dataset is None else ("dataset", _FILE_KEYS)
        # Compared with the defaults, as the resolved recipe of a run, which can be run itself, has every key.
        unused = [key for key in others if getattr(self, key) != type(self).model_fields[key].default]
        if unused:
            other = "dataset" if kind == "path" else "path"
            raise ValueError(f"{unused[0]} goes with {other}, not with {kind}; remove it")
        if self.messages_key is not None and self.document not in ("auto", "record"):
            raise ValueError("document: with messages_key each record is a conversation; remove document")
        if self.messages_key is not None and self.text_key != "text":
            raise ValueError("text_key: with messages_key a record has a conversation in place of text; remove one")
        return self

    @property
    def title(self) -> str:
        """The name that messages and manifests use."""
        return self.name or self.path or self.dataset or ""


_STREAM_KEYS = ("config", "revision", "buffer")
_FILE_KEYS = ("include", "exclude", "document", "encoding")
_DRAWING = (
    "assistant_only_loss", "long_conversations", "size", "validation", "seed", "filters", "executor", "workers",
)  # fmt: skip


class Slurm(Part):
    """The settings of Slurm jobs, for `data.executor: slurm`."""

    partition: Annotated[str, Field(min_length=1)]
    """The partition of the jobs."""
    time: Annotated[str, Field(min_length=1)]
    """Time limit of a task, as sbatch takes it, e.g. `04:00:00`."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    """Processors of a task."""
    gigabytes_per_cpu: Annotated[int, Field(ge=1)] = 2
    """Memory for each processor."""
    qos: str | None = None
    """Quality of service. Default: the cluster's."""
    environment: str | None = None
    """Shell command that runs first and makes Python with inheritune available. Default: the Python that submits."""
    sbatch: dict[str, str] = {}
    """Further options of sbatch, by their long names."""


class TokenFiles(Part):
    """Files of tokens that the reference's tokenizer has made, used unchanged and in their place.

    .bin: nanoGPT's, without a header, or llm.c's; .ds: datatrove's; .npy: NumPy's, of one dimension. Files or patterns,
    in this order; those of a pattern by name.
    """

    train: Annotated[list[str], Field(min_length=1)]
    """Training tokens: .bin, .ds or .npy files."""
    validation: Annotated[list[str], Field(min_length=1)]
    """Validation tokens, of the same type."""
    dtype: Literal["uint16", "uint32"] | None = None
    """The type of the tokens. Default: what the files declare (a header, datatrove's .metadata), else what the
    vocabulary and the files' bytes show; where nothing shows it, it must be given."""


class Data(Part):
    """Training and validation text, exact to the token."""

    sources: list[Source] = []
    """The sources of the text."""
    prepared: Path | None = None
    """Instead of `sources`: a folder that `inheritune prepare` wrote, or one with nanoGPT's train.bin and val.bin."""
    tokens: TokenFiles | None = None
    """Instead of `sources`: token files of nanoGPT, llm.c, datatrove or NumPy."""
    prefix: Literal["auto", "none"] = "auto"
    """What precedes every sequence and document as context: the tokens that the model's own tokenizer adds at the start
    of a text, such as beginning-of-text (`auto`), or nothing (`none`). They are never predicted and count in no size or
    budget. Token files are not changed; if they contain the prefix already, none is added."""
    assistant_only_loss: bool = False
    """Of conversations only the assistant's turns are targets, in training, judging and distillation. false: all
    text."""
    long_conversations: Literal["truncate", "drop", "split"] = "truncate"
    """What happens to a conversation that is longer than a sequence: its beginning is kept, or it is excluded, or
    divided over several sequences. Shorter ones are never cut."""
    size: Tokens | None = None
    """Training tokens: whole documents drawn at random with the seed, the last one cut. Default: all there are."""
    validation: Tokens = Size(100_000, "tokens")
    """Documents, chosen by a hash of their content and kept out of training, until at least so many tokens. Of long
    documents only the beginning is taken, so that there are at least 20 where the text allows."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Draws the documents. Default: the recipe's seed."""
    filters: Filters = []
    """Filters that exclude documents, in this order: names, or mappings of `filter` and its options. Those that compare
    all documents (exact_duplicates, near_duplicates) come last."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """Where the text is read, filtered and tokenised: in processes of this machine, as Slurm jobs, or on a Ray cluster.
    The result is the same, to the byte. All machines must see the folders."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Tasks that run at the same time. Default: the number of processors (local), or what the cluster allows."""
    slurm: Slurm | None = None
    """Needed with `executor: slurm`, and only then."""

    @property
    def changed(self) -> list[str]:
        """The keys that have another value than by default."""
        return [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]

    @property
    def has_conversations(self) -> bool:
        """Whether its sources have conversations."""
        return any(source.messages_key is not None for source in self.sources)

    @model_validator(mode="after")
    def _cluster(self) -> Self:
        if (self.executor == "slurm") != (self.slurm is not None):
            raise ValueError(
                "slurm: executor slurm needs its partition and time; give slurm: {partition: cpu, time: '04:00:00'}"
                if self.slurm is None
                else f"slurm: these settings belong to executor slurm, it is {self.executor}; remove them"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [name for name in ("sources", "prepared", "tokens") if getattr(self, name)]
        if len(origins) != 1:
            raise ValueError(
                f"{' and '.join(origins) or 'no text'} given; give either sources (text to prepare), prepared (a folder"
                " that `inheritune prepare` wrote) or tokens (token files)"
            )
        if not self.sources:
            # Compared with the defaults, as the resolved recipe of a run, which can be run itself, has every key.
            drawing = [key for key in _DRAWING if key in self.changed]
            if drawing:
                raise ValueError(
                    f"{drawing[0]} is for sources; remove it, as prepared data is used completely and unchanged"
                )
        titles = [source.title for source in self.sources]
        if len(set(titles)) < len(titles):
            raise ValueError("two sources have the same name, path or data set; give each its own `name`")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("some sources have a weight and some have none; give every source a weight, or none")
        chats = [source for source in self.sources if source.messages_key is not None]
        if chats and len(chats) < len(self.sources):
            text = next(source.title for source in self.sources if source.messages_key is None)
            raise ValueError(
                f"sources: {chats[0].title} has conversations and {text} has text; give one kind, or write the text as"
                " conversations"
            )
        cutting = [entry.title for entry in self.filters if entry.cuts_text]
        if chats and cutting:
            raise ValueError(
                f"filters: {cutting[0]} cuts text out of documents, and conversations stay whole; remove it"
            )
        keys = [key for key in ("assistant_only_loss", "long_conversations") if key in self.changed]
        if keys and self.sources and not chats:
            raise ValueError(f"{keys[0]} is for conversations; give the sources messages_key: messages, or remove it")
        weighted = any(source.weight is not None for source in self.sources)
        if self.size is None and weighted:
            raise ValueError("weights divide `size`; give data.size, or remove the weights")
        if len(self.sources) > 1 and not weighted and any(source.dataset is not None for source in self.sources):
            raise ValueError("a data set that is streamed has no known size: give every source a weight, and data.size")
        limits = [source.limit for source in self.sources]
        most = sum(limit.count for limit in limits if limit is not None)
        if self.size is not None and limits and None not in limits and most < self.size.count:
            raise ValueError(
                f"size: {self.size}, and the limits of the sources allow {most:,} tokens; raise the limits"
            )
        return self
