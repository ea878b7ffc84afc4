"""The command that prepares text."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune import arch, corpus, data, experiment, inheritance
from inheritune import recipe as recipes
from inheritune.cli.options import Json, Quiet, echo, overrides, show_log
from inheritune.cli.tables import show_prepared
from inheritune.errors import InputError
from inheritune.redaction import visible_text

Make = Callable[[Path], "data.Prepared"]
Text = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, patterns or addresses with text; or one recipe (.yaml) whose data to prepare.",
        metavar="[TEXT]...",
    ),
]
Out = Annotated[Path | None, typer.Option(help="The folder to write; without TEXT one that exists.")]
Tokenizer = Annotated[str | None, typer.Option(help="The model whose tokenizer to use: hub id, folder or .gguf file.")]
Size = Annotated[str | None, typer.Option(help='Training tokens, e.g. "10M tokens". Default: all the text.')]
Validation = Annotated[str | None, typer.Option(help='Validation tokens, of many documents. Default: "100K tokens".')]
Seed = Annotated[int | None, typer.Option(help="Draws the documents. Default: 1, or the recipe's.")]
Sample = Annotated[bool, typer.Option("--sample", help="Print ten training documents as the model will see them.")]
Nanogpt = Annotated[Path | None, typer.Option(help="Write train.bin and val.bin for nanoGPT into this folder as well.")]
# Keys of a source, which hold for each TEXT.
Include = Annotated[list[str] | None, typer.Option(help="Pattern of file names to take from folders; repeatable.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Pattern of file names to exclude from folders; repeatable.")]
Document = Annotated[
    str | None,
    typer.Option(
        help="What a document is: file, line, 'blank line', record, 'string literal', or a size such as"
        " '2K characters'. Default: record for .jsonl, .ndjson, .csv, .parquet and .arrow, else file."
    ),
]
TextKey = Annotated[str | None, typer.Option(help="The key or column that holds a record's text. Default: text.")]
MessagesKey = Annotated[
    str | None, typer.Option(help="The key or column that holds conversations: records are conversations then.")
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of text files, e.g. latin-1, utf-16; auto: decided by each file's bytes. Default: utf-8."),
]
Split = Annotated[str | None, typer.Option(help="Of a folder of DatasetDict.save_to_disk. Default: train.")]
Limit = Annotated[str | None, typer.Option(help='Most training tokens of each TEXT, e.g. "1M tokens".')]
OnError = Annotated[
    str | None, typer.Option(help="At text that cannot be read: stop, or skip it and count it. Default: stop.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="TEXT is a folder with nanoGPT's train.bin and val.bin, whose tokens are uint16 or uint32; the files are"
        " used in their place."
    ),
]
Name = Annotated[str | None, typer.Option(help="The name of the text in the manifest. Default: its path.")]


_SOURCE = (
    "include", "exclude", "document", "text_key", "messages_key", "encoding", "split", "limit", "on_error", "name"
)  # fmt: skip


def prepare(
    text: Text = None, out: Out = None, tokenizer: Tokenizer = None, size: Size = None, validation: Validation = None,
    include: Include = None, exclude: Exclude = None, document: Document = None, text_key: TextKey = None,
    messages_key: MessagesKey = None, encoding: Encoding = None, split: Split = None, limit: Limit = None,
    on_error: OnError = None, name: Name = None, dtype: Dtype = None,
    seed: Seed = None, sample: Sample = False, nanogpt: Nanogpt = None, as_json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Turn text into token shards: a validation set of many documents and an exact training subset."""
    words = [word for word in text or () if word.startswith("--")]
    text = [word for word in text or () if not word.startswith("--")]
    options: dict[str, Any] = {
        "size": size, "validation": validation, "seed": seed, "tokenizer": tokenizer, "dtype": dtype,
        "include": include or None, "exclude": exclude or None, "document": document, "text_key": text_key,
        "messages_key": messages_key, "encoding": encoding, "split": split, "limit": limit, "on_error": on_error,
        "name": name,
    }  # fmt: skip
    options = {key: value for key, value in options.items() if value is not None}
    if out is None:
        raise InputError("command line", "no folder to write to", "name it with --out")
    if not text:
        _refuse(options, words, "without TEXT the folder is only shown or written for others")
        if not sample and nanogpt is None:
            raise InputError("command line", "no text", "name files or folders, or give --sample or --nanogpt")
        prepared = data.open_prepared(out)
        _check_nanogpt(nanogpt, out)
    else:
        if len(text) == 1 and text[0].lower().endswith((".yaml", ".yml")):
            _refuse(options, [], "a recipe has these itself; override its keys, as --data.size='10M tokens'")
            make = _of_recipe(Path(text[0]), overrides(words))
        else:
            make = (_of_text if dtype is None else _of_token_files)(text, options, overrides(words))
        if data.has_result(out):  # `make` accepts the result of the same request
            corpus.remove_left_over(out)
        else:
            inheritance.check_free(out)
        _check_nanogpt(nanogpt, out)
        show_log(quiet)
        prepared = make(out)
    _finish(prepared, sample, nanogpt, as_json)


def _refuse(options: Iterable[str], words: list[str], why: str) -> None:
    """Raise InputError where there is an option, or a word that sets a key."""
    names = [f"--{key.replace('_', '-')}" for key in options] + (["a key"] if words else [])
    if names:
        raise InputError("command line", f"{names[0]} does not go with this", why)


def _check_nanogpt(nanogpt: Path | None, out: Path) -> None:
    """Raise InputError where `nanogpt` cannot be written, before the work begins."""
    if nanogpt is None:
        return
    if nanogpt.resolve() == out.resolve():
        raise InputError("command line", "--out and --nanogpt are the same folder", "give each its own")
    if not (data.has_result(out) and nanogpt.is_dir()):  # a folder with the same tokens is accepted later
        inheritance.check_free(nanogpt)


def _of_recipe(file: Path, words: list[str]) -> Make:
    recipe = recipes.load_recipe(file, words)
    if recipe.data.prepared is not None and data.nanogpt_files(recipe.data.prepared) is None:
        raise InputError(str(file), "its data is prepared already", "use it directly, or give data.sources")
    return lambda out: experiment.prepare_data(recipe, out, compare=True)


def _of_text(text: list[str], options: dict[str, Any], words: list[str]) -> Make:
    tokenizer = _tokenizer_of(options, "to use")
    of_each = {key: options[key] for key in _SOURCE if key in options}
    request: dict[str, Any] = {"sources": [{"path": path} | of_each for path in text]}
    request |= {key: options[key] for key in ("size", "validation", "seed") if key in options}
    overridden = recipes.override({}, words).get("data")
    for key in request:
        if isinstance(overridden, dict) and key in overridden:
            option = "TEXT" if key == "sources" else f"--{key}"
            raise InputError("command line", f"{option} and --data.{key} are the same setting", "give one of them")

    class Words(recipes.Part):
        """The part of a recipe that the words may override."""

        data: recipes.Data

    settings = recipes.check(Words, recipes.override({"data": request}, words), "command line").data

    def make(out: Path) -> "data.Prepared":
        corpus.list_inputs(settings.sources)  # before the tokenizer is loaded, or downloaded
        return corpus.prepare(settings, arch.load_tokenizer(recipes.model_at(tokenizer), log=True), out)

    return make


def _tokenizer_of(options: dict[str, Any], use: str) -> str:
    if "tokenizer" not in options:
        raise InputError("command line", "no tokenizer", f"name the model whose tokenizer {use} with --tokenizer")
    return str(options["tokenizer"])


def _of_token_files(text: list[str], options: dict[str, Any], words: list[str]) -> Make:
    dtype = options["dtype"]
    _refuse(
        [key for key in options if key not in ("tokenizer", "dtype")],
        words,
        "with --dtype the tokens are used unchanged",
    )
    if dtype not in ("uint16", "uint32"):
        raise InputError("command line", f"--dtype {dtype}", "legal are uint16 and uint32")
    tokenizer = _tokenizer_of(options, "made the tokens")
    files = data.nanogpt_files(text[0], dtype) if len(text) == 1 else None
    if files is None:
        remedy = "give one folder that has both, or name other files in a recipe's data.tokens"
        raise InputError(", ".join(text), "--dtype is for a folder with train.bin and val.bin", remedy)
    data.list_token_files(files)  # before the tokenizer is loaded, or downloaded
    return lambda out: data.adopt(files, arch.load_tokenizer(recipes.model_at(tokenizer), log=True), out)


def _finish(prepared: "data.Prepared", sample: bool, nanogpt: Path | None, as_json: bool) -> None:
    if nanogpt is not None:
        data.write_nanogpt(prepared, nanogpt)
    manifest = prepared.manifest | ({} if nanogpt is None else {"nanogpt": str(nanogpt)})
    own = recipes.Reference(path=str(prepared.tokenizer_folder))
    shown = list(data.preview(prepared, 10, arch.load_tokenizer(own))) if sample else []
    if as_json:
        typer.echo(json.dumps(manifest | ({"sample": shown} if sample else {}), indent=2))
        return
    for number, document in enumerate(shown, start=1):
        echo(f"--- document {number}: {document['tokens']:,} tokens")
        typer.echo(visible_text(document["text"]))
    show_prepared(manifest)
    tokens, documents = manifest["tokens"], manifest["documents"]
    echo(f"{prepared.folder}: {tokens['train']:,} training tokens of {documents['train']:,} documents,")
    echo(f"{tokens['validation']:,} validation tokens of {documents['validation']:,} documents")
    if nanogpt is not None:
        echo(f"{nanogpt}: the same tokens as train.bin and val.bin")
