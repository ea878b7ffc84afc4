"""Streams of data sets of the Hub, and their texts in an order drawn with a seed from a buffer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inheritune.corpus.sources.saved import STATE
from inheritune.corpus.sources.texts import Fault, Text, no_column, no_text
from inheritune.errors import InputError, RunError
from inheritune.recipe import Source


def open_stream(source: Source) -> Any:
    """The data set as a `datasets.IterableDataset` of the text column alone; no text is read yet.

    Raises InputError, which names what exists, for an unknown data set, configuration, split, revision or column, for a
    data set that is a script, and where the Hub cannot be reached.
    """
    import datasets

    datasets.disable_progress_bars()
    place = f"data.sources: {source.title}"
    if (Path(source.dataset or "") / STATE).is_file():  # load_dataset refuses it
        raise InputError(place, "a folder that `save_to_disk` wrote", "name it with `path` instead of `dataset`")
    try:
        stream = datasets.load_dataset(
            source.dataset, source.config, split=source.split, revision=source.revision, streaming=True
        )
        columns = stream.column_names or []
    except Exception as error:  # of datasets, the hub's client, or the reader of some format
        raise InputError(place, *_reason(error)) from None
    key = source.text_key if source.messages_key is None else source.messages_key
    if key not in columns:
        what, remedy = no_column(key, columns)
        raise InputError(place, what, remedy if key == source.text_key else "name the column with `messages_key`")
    wanted = [key] if source.messages_key is None else [name for name in (key, "tools") if name in columns]
    return stream.select_columns(wanted)  # so that the buffer holds nothing else


def read_stream(source: Source, seed: int, fault: Fault) -> Iterator[Text]:
    """The texts of `stream_rows`. `fault` is called for rows without text too."""
    for place, row in stream_rows(source, seed, fault):
        text = row[source.text_key]
        if isinstance(text, str):
            yield Text(place, text)
        else:
            fault(place, *no_text(row, source.text_key))


def stream_rows(source: Source, seed: int, fault: Fault) -> Iterator[tuple[str, Any]]:
    """The places and rows of shuffled files, drawn from a buffer; the same for the same seed, buffer and revision.

    `fault` is called where a stream cannot be read further. Raises RunError when the connection is lost.
    """
    rows = enumerate(open_stream(source).shuffle(seed=seed, buffer_size=source.buffer), start=1)
    while True:
        try:
            number, row = next(rows)
        except StopIteration:
            return
        except OSError as error:
            raise RunError(source.title, f"the stream broke off ({error})", "check the network, start again") from None
        except Exception as error:  # of the reader of some format
            fault(source.title, f"cannot be read further ({error})", "correct the data set")
            return
        yield f"{source.title}: row {number} as drawn", row


def _reason(error: Exception) -> tuple[str, str]:
    """What is wrong, in the words of the library, which name what exists; and the remedy."""
    what = " ".join(str(error).split())[:300].partition(" Example of usage")[0]
    if "scripts are no longer supported" in what:
        return what, "give the files that the script would fetch with `path`, or another data set"
    if "Bad split" in what:
        return what, "set the source's `split`; `limit` takes a part of one"
    if "BuilderConfig" in what or "Config name" in what:
        return what, "set the source's `config`"
    if isinstance(error, ConnectionError):
        return what, "connect to the network, or give local files with `path`"
    if isinstance(error, FileNotFoundError):
        return what, "correct `dataset` or `revision`, or log in with `hf auth login`"
    return what or type(error).__name__, "correct the data set, or give its files with `path`"
