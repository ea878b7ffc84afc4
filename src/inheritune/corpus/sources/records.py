"""Records: the lines of a JSON lines file, the rows of a .csv or .parquet file."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.lines import Lines
from inheritune.corpus.sources.storage import BLOCK, Damaged, explained, open_bytes
from inheritune.corpus.sources.texts import Fault, Text, no_column, no_text, too_long
from inheritune.corpus.sources.transcoding import NotText, decode
from inheritune.limits import BATCH_BYTES, CHUNK_BYTES, CHUNK_RATIO, DOCUMENT

_ROWS = 256  # of a parquet file at once: what is in memory, besides a page of the file

_MOST_BYTES = 4 * DOCUMENT  # a character has 1 to 4


def read_json_lines(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The texts under `text_key`, one a line. Empty lines are nothing."""
    from orjson import loads

    lines = Lines(one)
    for line in lines:
        try:
            record = loads(line)
        except ValueError:
            if not line.strip():
                continue
            try:
                record = _patient_loads(line, one)
            except NotText as error:
                fault(lines.place(), error.what, error.remedy)
                continue
            except (ValueError, RecursionError) as error:
                why = f"{error.msg}: character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
                fault(lines.place(), f"not a JSON record ({why})", "mend the line")
                continue
        text = record.get(text_key) if isinstance(record, dict) else None
        if isinstance(text, str):
            yield Text(lines.here(), text)
        else:
            fault(lines.place(), *no_text(record, text_key))


def _patient_loads(line: bytes, one: Input) -> Any:
    """What Python's own writer puts down and stricter readers refuse: NaN and infinity beside the text."""
    record = json.loads(decode(line, one))
    # It also lets half a surrogate pair through, which is no text and cannot be written as UTF-8.
    json.dumps(record, ensure_ascii=False).encode()
    return record


def read_csv(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The fields of the column `text_key`; the first line names the columns. Fields may hold line ends."""
    csv.field_size_limit(DOCUMENT)
    lines = Lines(one)
    broken: list[NotText] = []

    def decoded() -> Iterator[str]:
        for line in lines:
            try:
                yield decode(line, one)
            except NotText as error:
                # The quotes must still be seen, else the records behind would fall apart otherwise.
                broken.append(error)
                yield line.replace(b"\0", b"?").decode(errors="replace")

    rows = csv.reader(decoded(), strict=True)
    header: list[str] | None = None
    while True:
        place, what = f"{one.address}: line {rows.line_num + 1}", None
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):  # where the field ends, nobody knows
                line = place.removeprefix(f"{one.address}: ")
                what = f"{line} begins a record with a field of more than {DOCUMENT:,} characters"
                raise Damaged(what, "mend its quotes, or split the text into several records") from None
            row, what = [], f"not a row of a .csv file ({error})"
        if broken:
            fault(place, broken[0].what, broken[0].remedy)
            broken.clear()
        elif what is not None:
            fault(place, what, "mend the quotes")
        elif header is None:
            header = row
            if text_key not in header:
                raise Damaged(*no_column(text_key, header))
        elif len(row) == len(header):
            yield Text(place, row[header.index(text_key)])
        elif row:
            fault(place, f"{len(row)} fields, and the first line names {len(header)} columns", "mend the row")


def read_parquet(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of the column `text_key`. No other column is read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with explained(one.address), open_bytes(one.address, seeking=True) as file:
        try:
            # Page by page: a row group, which may be as large as the file, is else held whole.
            table = ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)
            check_column(table.schema_arrow, text_key)
            number = 0
            for group in range(table.num_row_groups):
                rows = _rows_at_once(table, file, group, text_key)
                for batch in table.iter_batches(rows, row_groups=[group], columns=[text_key], use_threads=False):
                    yield from column_texts(one, batch.column(0), number, text_key, fault)
                    number += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"not a whole .parquet file ({error})", "fetch the file again, or exclude it") from None


def _rows_at_once(table: Any, file: Any, group: int, text_key: str) -> int:
    """How many rows of a row group can be unpacked at once: a text that many rows share is stored once.

    Raises Damaged for a column that unpacks to far more than is stored.
    """
    from pyarrow import compute
    from pyarrow.parquet import ParquetFile

    of_group = table.metadata.row_group(group)
    chunk = next(
        chunk for chunk in map(of_group.column, range(of_group.num_columns)) if chunk.path_in_schema == text_key
    )
    unpacked, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
    if unpacked > max(CHUNK_BYTES, CHUNK_RATIO * stored):
        what = f"row group {group + 1}: column {text_key!r} unpacks from {stored:,} bytes to {unpacked:,}"
        raise Damaged(what, f"write it in row groups that unpack to at most {CHUNK_BYTES:,} bytes, or exclude the file")
    rows = min(_ROWS, max(1, _ROWS * CHUNK_BYTES // max(unpacked, 1)))
    if any("DICTIONARY" in encoding for encoding in chunk.encodings) and of_group.num_rows:
        packed = ParquetFile(file, buffer_size=BLOCK, pre_buffer=False, read_dictionary=[text_key])
        first = next(packed.iter_batches(1, row_groups=[group], columns=[text_key], use_threads=False)).column(0)
        longest = int(compute.max(compute.binary_length(first.dictionary)).as_py() or 1)
        rows = min(rows, max(1, BATCH_BYTES // max(longest, 1)))
    return int(rows)


def column_texts(one: Input, column: Any, before: int, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of an Arrow column of text that stands behind `before` rows of the file."""
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
            fault(place, "not UTF-8 text", "write the file anew")
            continue
        if text is None:
            fault(place, *no_text({text_key: None}, text_key))
        else:
            yield Text(place, text)


def check_column(schema: Any, text_key: str) -> None:
    """Raise Damaged unless an Arrow schema has a column `text_key` of text."""
    from pyarrow import types

    if text_key not in schema.names:
        raise Damaged(*no_column(text_key, schema.names))
    kind = schema.field(text_key).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise Damaged(f"column {text_key!r} holds {kind}, not text", "name the column with the source's `text_key`")
