"""Tables: .parquet files, and .arrow files, in which `datasets` keeps its rows. Only the text's column is read."""

import contextlib
from collections.abc import Iterator
from typing import Any

from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.storage import BLOCK, Damaged, explained, kind, open_bytes
from inheritune.corpus.sources.texts import Fault, Text, no_column, no_text, too_long
from inheritune.limits import BATCH_BYTES, CHUNK_BYTES, CHUNK_RATIO, DOCUMENT

_ROWS = 256  # of a parquet file at once: these are in memory, and a page of the file
_MOST_BYTES = 4 * DOCUMENT  # a character has 1 to 4
_FILE_MARK = b"ARROW1"  # begins an Arrow file with an index at its end; the other form is a stream of batches


def read_arrow(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of the column `text_key` of an Arrow file of either form, one record batch in memory at a time."""
    with _opened(one, ".arrow") as file:
        reader, batches = _arrow(file)
        _check_column(reader.schema, text_key)
        number = 0
        for batch in batches:
            yield from _texts(one, batch.column(text_key), number, text_key, fault)
            number += batch.num_rows


def read_parquet(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of the column `text_key` of a .parquet file, page by page."""
    from pyarrow.parquet import ParquetFile

    with _opened(one, ".parquet") as file:
        # Without these arguments a row group, which may be as large as the file, is held whole.
        table = ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)
        _check_column(table.schema_arrow, text_key)
        number = 0
        for group in range(table.num_row_groups):
            rows = _rows_at_once(table, file, group, text_key)
            for batch in table.iter_batches(rows, row_groups=[group], columns=[text_key], use_threads=False):
                yield from _texts(one, batch.column(0), number, text_key, fault)
                number += batch.num_rows


def table_rows(one: Input, fault: Fault, key: str, *more: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The places and rows of a table of either kind: its column `key`, and those of `more` that it has."""
    number = 0
    for batch in _batches(one, [key, *more]):
        for at in range(batch.num_rows):
            number += 1
            place = f"{one.address}: row {number}"
            try:
                [row] = batch.slice(at, 1).to_pylist()
            except UnicodeDecodeError:
                fault(place, "not UTF-8 text", "write the file again")
            else:
                yield place, row


def _batches(one: Input, names: list[str]) -> Iterator[Any]:
    """The record batches of a table, with those of the columns `names` that it has; it must have the first."""
    from pyarrow.parquet import ParquetFile

    suffix, there = kind(one.address), column_names(one)
    columns = [name for name in names if name in there]
    if names[0] not in columns:
        remedy = "name the column that holds the messages with the source's `messages_key`"
        raise Damaged(no_column(names[0], there)[0], remedy)
    with _opened(one, suffix) as file:
        if suffix == ".arrow":
            batches = _arrow(file)[1]
            yield from (batch.select(columns).slice(at, _ROWS) for batch in batches for at in _starts(batch.num_rows))
            return
        table = ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)
        for group in range(table.num_row_groups):
            _check_unpacked(table, group, columns)
            yield from table.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False)


def column_names(one: Input) -> list[str]:
    """The columns of a table of either kind."""
    from pyarrow.parquet import ParquetFile

    suffix = kind(one.address)
    with _opened(one, suffix) as file:
        schema = _arrow(file)[0].schema if suffix == ".arrow" else ParquetFile(file, buffer_size=BLOCK).schema_arrow
        return list(schema.names)


def _arrow(file: Any) -> tuple[Any, Any]:
    """The reader of an open Arrow file of either form, and its record batches."""
    from pyarrow import ipc

    has_index = file.read(len(_FILE_MARK)) == _FILE_MARK
    file.seek(0)
    reader = ipc.open_file(file) if has_index else ipc.open_stream(file)
    return reader, map(reader.get_batch, range(reader.num_record_batches)) if has_index else reader


def _starts(rows: int) -> range:
    return range(0, rows, _ROWS)


def _check_unpacked(table: Any, group: int, columns: list[str]) -> None:
    """Raise Damaged where the columns of a row group unpack to far more than is stored."""
    of_group = table.metadata.row_group(group)
    every = map(of_group.column, range(of_group.num_columns))
    chunks = [chunk for chunk in every if chunk.path_in_schema.partition(".")[0] in columns]
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    stored = sum(chunk.total_compressed_size for chunk in chunks)
    if unpacked > max(CHUNK_BYTES, CHUNK_RATIO * stored):
        raise Damaged(*_too_large(f"row group {group + 1}: columns {', '.join(columns)}", stored, unpacked))


@contextlib.contextmanager
def _opened(one: Input, suffix: str) -> Iterator[Any]:
    """The open file; pyarrow's errors about its content become Damaged."""
    import pyarrow

    with explained(one.address), open_bytes(one.address, seeking=True) as file:
        try:
            yield file
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"not a whole {suffix} file ({error})", "fetch the file again, or exclude it") from None


def _rows_at_once(table: Any, file: Any, group: int, text_key: str) -> int:
    """How many rows of a row group can be unpacked at once: a text of many rows may be stored once.

    Raises Damaged for a column that unpacks to far more than is stored.
    """
    from pyarrow import compute
    from pyarrow.parquet import ParquetFile

    of_group = table.metadata.row_group(group)
    chunks = map(of_group.column, range(of_group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == text_key)
    unpacked, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
    if unpacked > max(CHUNK_BYTES, CHUNK_RATIO * stored):
        raise Damaged(*_too_large(f"row group {group + 1}: column {text_key!r}", stored, unpacked))
    rows = min(_ROWS, max(1, _ROWS * CHUNK_BYTES // max(unpacked, 1)))
    if any("DICTIONARY" in encoding for encoding in chunk.encodings) and of_group.num_rows:
        packed = ParquetFile(file, buffer_size=BLOCK, pre_buffer=False, read_dictionary=[text_key])
        first = next(packed.iter_batches(1, row_groups=[group], columns=[text_key], use_threads=False)).column(0)
        longest = int(compute.max(compute.binary_length(first.dictionary)).as_py() or 1)
        rows = min(rows, max(1, BATCH_BYTES // max(longest, 1)))
    return int(rows)


def _too_large(name: str, stored: int, unpacked: int) -> tuple[str, str]:
    remedy = f"write it in row groups that unpack to at most {CHUNK_BYTES:,} bytes, or exclude the file"
    return f"{name} unpacks from {stored:,} bytes to {unpacked:,}", remedy


def _texts(one: Input, column: Any, before: int, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of an Arrow column of text, which follows `before` rows of the file."""
    from pyarrow import DictionaryScalar

    for number, value in enumerate(column, start=before + 1):
        place = f"{one.address}: row {number}"
        stored = value.value if isinstance(value, DictionaryScalar) else value
        if stored.is_valid and stored.as_buffer().size > _MOST_BYTES:
            fault(place, *too_long(stored.as_buffer().size // 4))
            continue
        try:
            text = value.as_py()
        except UnicodeDecodeError:
            fault(place, "not UTF-8 text", "write the file again")
            continue
        if text is None:
            fault(place, *no_text({text_key: None}, text_key))
        else:
            yield Text(place, text)


def _check_column(schema: Any, text_key: str) -> None:
    """Raise Damaged unless an Arrow schema has a column `text_key` of text."""
    from pyarrow import types

    if text_key not in schema.names:
        raise Damaged(*no_column(text_key, schema.names))
    column = schema.field(text_key).type
    inner = column.value_type if types.is_dictionary(column) else column
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise Damaged(f"column {text_key!r} holds {column}, not text", "name the column with the source's `text_key`")
