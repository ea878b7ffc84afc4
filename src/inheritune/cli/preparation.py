"""The command that prepares text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inheritune.cli.options import Json, Quiet, overrides, terminal_of
from inheritune.cli.tables import show_prepared
from inheritune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inheritune.data import Prepared


def prepare(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, patterns or addresses with text; or one recipe (.yaml), whose data is prepared.",
            metavar="[TEXT]...",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; without TEXT one that was written.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The model whose tokenizer is used: hub id, folder or .gguf file.")
    ] = None,
    size: Annotated[str | None, typer.Option(help='Training tokens, e.g. "10M tokens". Default: all the text.')] = None,
    validation: Annotated[
        str | None, typer.Option(help='Validation tokens, whole documents. Default: "100K tokens".')
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="File-name pattern taken from folders; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the documents. Default: 1, or the recipe's.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Print ten training documents as the model will see them.")
    ] = False,
    nanogpt: Annotated[
        Path | None, typer.Option(help="Write train.bin and val.bin for nanoGPT into this folder as well.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn text into token shards: a validation set of whole documents and an exact training subset."""
    words = [word for word in text or () if word.startswith("--")]
    text = [word for word in text or () if not word.startswith("--")]
    if out is None:
        raise InputError("command line", "no folder to write to", "name it with --out")
    given = {"--size": size, "--validation": validation, "--include": include, "--seed": seed, "--tokenizer": tokenizer}
    if not text:
        _only_without(given | {"a key": words or None}, "without TEXT the folder is only shown or written for others")
        if not sample and nanogpt is None:
            raise InputError("command line", "no text", "name files or folders, or give --sample or --nanogpt")
        from inheritune.data import open_prepared

        _finish(open_prepared(out), sample, nanogpt, as_json)
        return
    say = terminal_of(quiet).say
    if len(text) == 1 and text[0].lower().endswith((".yaml", ".yml")):
        _only_without(given, "a recipe has these itself; override its keys, as --data.size='10M tokens'")
        prepared = _recipe(Path(text[0]), words, out, say)
    else:
        request: dict[str, Any] = {
            "sources": [{"path": path} | ({"include": include} if include else {}) for path in text]
        }
        request |= {key: value for key, value in (("size", size), ("validation", validation)) if value is not None}
        prepared = _text(request, words, tokenizer, out, 1 if seed is None else seed, say)
    _finish(prepared, sample, nanogpt, as_json)


def _only_without(options: dict[str, Any], why: str) -> None:
    named = [name for name, value in options.items() if value is not None]
    if named:
        raise InputError("command line", f"{named[0]} does not go with this", why)


def _recipe(file: Path, words: list[str], out: Path, say: "Callable[[str], None]") -> "Prepared":
    from inheritune.recipe import load_recipe

    recipe = load_recipe(file, overrides(words))
    if not recipe.data.sources:
        raise InputError(str(file), "its data is prepared already", "use it as it is, or give data.sources")

    from inheritune.inheritance import check_free
    from inheritune.pipeline import prepare_data

    check_free(out)
    return prepare_data(recipe, out, say)


def _text(
    request: dict[str, Any], words: list[str], tokenizer: str | None, out: Path, seed: int, say: "Callable[[str], None]"
) -> "Prepared":
    from inheritune.recipe import Data, Reference, check, override

    if tokenizer is None:
        raise InputError("command line", "no tokenizer", "name the model whose tokenizer is used with --tokenizer")
    tree = override({"data": request}, overrides(words))
    data = check(Data, tree["data"], "data")

    from inheritune.arch import load_tokenizer
    from inheritune.data import check_filters, list_inputs
    from inheritune.data import prepare as write
    from inheritune.inheritance import check_free

    check_free(out)
    list_inputs(data.sources)  # what costs a second is wrong before what costs minutes
    check_filters(data.filters)
    return write(data, load_tokenizer(Reference(path=tokenizer), say), out, seed=seed, say=say)


def _finish(prepared: "Prepared", sample: bool, nanogpt: Path | None, as_json: bool) -> None:
    from inheritune.data import preview, write_nanogpt

    if nanogpt is not None:
        write_nanogpt(prepared, nanogpt)
    found = prepared.manifest
    shown = list(preview(prepared, 10)) if sample else []
    if as_json:
        typer.echo(json.dumps(found | ({"sample": shown} if sample else {}), indent=2))
        return
    for number, document in enumerate(shown, start=1):
        typer.echo(f"--- document {number}: {document['tokens']:,} tokens")
        typer.echo(document["text"])
    show_prepared(found)
    tokens, documents = found["tokens"], found["documents"]
    typer.echo(f"{prepared.folder}: {tokens['train']:,} training tokens of {documents['train']:,} documents,")
    typer.echo(f"{tokens['validation']:,} validation tokens of {documents['validation']:,} documents")
