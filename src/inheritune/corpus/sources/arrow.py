"""Arrow files, as `datasets` keeps its rows in."""

from collections.abc import Iterator
from typing import Any

from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.records import check_column, column_texts
from inheritune.corpus.sources.storage import Damaged, explained, open_bytes
from inheritune.corpus.sources.texts import Fault, Text

_FILE_MARK = b"ARROW1"  # of the form with an index at its end; the other one is a stream of batches


def read_arrow(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of the column `text_key` of an Arrow file of either form, one record batch in memory at a time."""
    import pyarrow

    with explained(one.address), open_bytes(one.address, seeking=True) as file:
        try:
            number = 0
            for batch in _batches(file, text_key):
                yield from column_texts(one, batch.column(text_key), number, text_key, fault)
                number += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"not a whole .arrow file ({error})", "fetch the file again, or exclude it") from None


def _batches(file: Any, text_key: str) -> Iterator[Any]:
    from pyarrow import ipc

    mark = file.read(len(_FILE_MARK))
    file.seek(0)
    if mark != _FILE_MARK:
        reader = ipc.open_stream(file)
        check_column(reader.schema, text_key)
        yield from reader
        return
    reader = ipc.open_file(file)
    check_column(reader.schema, text_key)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)
