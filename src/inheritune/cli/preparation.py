"""The command that prepares text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inheritune.cli.options import Json, Quiet, echo, overrides, terminal_of
from inheritune.cli.tables import show_prepared
from inheritune.errors import InputError
from inheritune.redaction import visible_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from inheritune.data import Prepared

    Make = Callable[[Path, Callable[[str], None]], Prepared]


Text = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, patterns or addresses with text; or one recipe (.yaml), whose data is prepared.",
        metavar="[TEXT]...",
    ),
]
Out = Annotated[Path | None, typer.Option(help="The folder to write; without TEXT one that was written.")]
Tokenizer = Annotated[str | None, typer.Option(help="The model whose tokenizer is used: hub id, folder or .gguf file.")]
Size = Annotated[str | None, typer.Option(help='Training tokens, e.g. "10M tokens". Default: all the text.')]
Validation = Annotated[str | None, typer.Option(help='Validation tokens, whole documents. Default: "100K tokens".')]
Seed = Annotated[int | None, typer.Option(help="Draws the documents. Default: 1, or the recipe's.")]
Sample = Annotated[bool, typer.Option("--sample", help="Print ten training documents as the model will see them.")]
Nanogpt = Annotated[Path | None, typer.Option(help="Write train.bin and val.bin for nanoGPT into this folder as well.")]
# Keys of a source, which hold for each TEXT.
Include = Annotated[list[str] | None, typer.Option(help="File-name pattern taken from folders; repeatable.")]
Exclude = Annotated[list[str] | None, typer.Option(help="File-name pattern left out of folders; repeatable.")]
Document = Annotated[
    str | None,
    typer.Option(
        help="What a document is: file, line, 'blank line', record, 'string literal', or a size such as"
        " '2K characters'. Default: record for .jsonl, .ndjson, .csv, .parquet and .arrow, else file."
    ),
]
TextKey = Annotated[str | None, typer.Option(help="The key or column that holds a record's text. Default: text.")]
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
        help="TEXT is a folder with nanoGPT's train.bin and val.bin, whose tokens are uint16 or uint32; they are used"
        " where they are."
    ),
]
Name = Annotated[str | None, typer.Option(help="What the manifest calls the text. Default: its path.")]


_SOURCE = ("include", "exclude", "document", "text_key", "encoding", "split", "limit", "on_error", "name")


def prepare(
    text: Text = None, out: Out = None, tokenizer: Tokenizer = None, size: Size = None, validation: Validation = None,
    include: Include = None, exclude: Exclude = None, document: Document = None, text_key: TextKey = None,
    encoding: Encoding = None, split: Split = None, limit: Limit = None, on_error: OnError = None, name: Name = None,
    dtype: Dtype = None,
    seed: Seed = None, sample: Sample = False, nanogpt: Nanogpt = None, as_json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Turn text into token shards: a validation set of whole documents and an exact training subset."""
    words = [word for word in text or () if word.startswith("--")]
    text = [word for word in text or () if not word.startswith("--")]
    given: dict[str, Any] = {"--size": size, "--validation": validation, "--seed": seed, "--tokenizer": tokenizer}
    given["--dtype"] = dtype
    of_source = (include or None, exclude or None, document, text_key, encoding, split, limit, on_error, name)
    given |= {_option(key): value for key, value in zip(_SOURCE, of_source, strict=True)}
    if out is None:
        raise InputError("command line", "no folder to write to", "name it with --out")
    if not text:
        _only_without(given | {"a key": words or None}, "without TEXT the folder is only shown or written for others")
        if not sample and nanogpt is None:
            raise InputError("command line", "no text", "name files or folders, or give --sample or --nanogpt")
        from inheritune.data import open_prepared

        prepared = open_prepared(out)
        _check_nanogpt(nanogpt, out)
    else:
        recipe = Path(text[0]) if len(text) == 1 and text[0].lower().endswith((".yaml", ".yml")) else None
        if recipe is not None:
            _only_without(given, "a recipe has these itself; override its keys, as --data.size='10M tokens'")
        if recipe is not None:
            make = _of_recipe(recipe, overrides(words))
        else:
            make = (_of_text if dtype is None else _of_token_files)(text, given, overrides(words))
        from inheritune.data import has_result, remove_left_over
        from inheritune.inheritance import check_free

        if has_result(out):  # it is success, where this request has made it
            remove_left_over(out)
        else:
            check_free(out)
        _check_nanogpt(nanogpt, out)
        prepared = make(out, terminal_of(quiet).say)
    _finish(prepared, sample, nanogpt, as_json)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _only_without(options: dict[str, Any], why: str) -> None:
    named = [name for name, value in options.items() if value is not None]
    if named:
        raise InputError("command line", f"{named[0]} does not go with this", why)


def _check_nanogpt(nanogpt: Path | None, out: Path) -> None:
    """Before what takes long, and before anything is written over."""
    if nanogpt is None:
        return
    from inheritune.inheritance import check_free

    if check_free(nanogpt) == out.resolve():
        raise InputError("command line", "--out and --nanogpt are the same folder", "give each its own")


def _of_recipe(file: Path, words: list[str]) -> "Make":
    from inheritune.data import nanogpt_files
    from inheritune.recipe import load_recipe

    recipe = load_recipe(file, words)
    if recipe.data.prepared is not None and nanogpt_files(recipe.data.prepared) is None:
        raise InputError(str(file), "its data is prepared already", "use it as it is, or give data.sources")

    def make(out: Path, say: "Callable[[str], None]") -> "Prepared":
        from inheritune.pipeline import prepare_data

        return prepare_data(recipe, out, say, compare=True)

    return make


def _of_text(text: list[str], given: dict[str, Any], words: list[str]) -> "Make":
    from inheritune.recipe import Data, check, model_at, override
    from inheritune.recipe.base import Part

    class Words(Part):
        data: Data

    tokenizer = given["--tokenizer"]
    if tokenizer is None:
        raise InputError("command line", "no tokenizer", "name the model whose tokenizer is used with --tokenizer")
    overridden = override({}, words).get("data")
    for option, key in (("TEXT", "sources"), ("--size", "size"), ("--validation", "validation"), ("--seed", "seed")):
        if isinstance(overridden, dict) and key in overridden and given.get(option, text) is not None:
            raise InputError("command line", f"{option} and --data.{key} say the same thing", "give one of them")
    of_each = {key: value for key in _SOURCE if (value := given[_option(key)]) is not None}
    request: dict[str, Any] = {"sources": [{"path": path} | of_each for path in text]}
    request |= {key: given[f"--{key}"] for key in ("size", "validation", "seed") if given[f"--{key}"] is not None}
    data = check(Words, override({"data": request}, words), "command line").data

    def make(out: Path, say: "Callable[[str], None]") -> "Prepared":
        from inheritune.arch import load_tokenizer
        from inheritune.data import list_inputs, prepare

        list_inputs(data.sources)  # before the tokenizer is loaded, or downloaded
        return prepare(data, load_tokenizer(model_at(tokenizer), say), out, say=say)

    return make


def _of_token_files(text: list[str], given: dict[str, Any], words: list[str]) -> "Make":
    from inheritune.data import adopt, list_token_files, nanogpt_files
    from inheritune.recipe import model_at

    tokenizer, dtype = given.pop("--tokenizer"), given.pop("--dtype")
    _only_without(given | {"a key": words or None}, "with --dtype the tokens are used as they are")
    if dtype not in ("uint16", "uint32"):
        raise InputError("command line", f"--dtype {dtype}", "legal are uint16 and uint32")
    if tokenizer is None:
        raise InputError(
            "command line", "no tokenizer", "name the model whose tokenizer made the tokens with --tokenizer"
        )
    files = nanogpt_files(text[0], dtype) if len(text) == 1 else None
    if files is None:
        remedy = "give one folder that has both, or name other files in a recipe's data.tokens"
        raise InputError(", ".join(text), "--dtype is for a folder with train.bin and val.bin", remedy)
    list_token_files(files)  # before the tokenizer is loaded, or downloaded

    def make(out: Path, say: "Callable[[str], None]") -> "Prepared":
        from inheritune.arch import load_tokenizer

        return adopt(files, load_tokenizer(model_at(tokenizer), say), out)

    return make


def _finish(prepared: "Prepared", sample: bool, nanogpt: Path | None, as_json: bool) -> None:
    from inheritune.data import preview, write_nanogpt

    if nanogpt is not None:
        write_nanogpt(prepared, nanogpt)
    found = prepared.manifest | ({} if nanogpt is None else {"nanogpt": str(nanogpt)})
    shown = list(preview(prepared, 10)) if sample else []
    if as_json:
        typer.echo(json.dumps(found | ({"sample": shown} if sample else {}), indent=2))
        return
    for number, document in enumerate(shown, start=1):
        echo(f"--- document {number}: {document['tokens']:,} tokens")
        typer.echo(visible_text(document["text"]))
    show_prepared(found)
    tokens, documents = found["tokens"], found["documents"]
    echo(f"{prepared.folder}: {tokens['train']:,} training tokens of {documents['train']:,} documents,")
    echo(f"{tokens['validation']:,} validation tokens of {documents['validation']:,} documents")
    if nanogpt is not None:
        echo(f"{nanogpt}: the same tokens as train.bin and val.bin")
