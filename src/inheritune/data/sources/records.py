"""Records: the lines of a JSON lines file, the rows of a .csv or .parquet file."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from inheritune.data.sources.inputs import Input
from inheritune.data.sources.lines import Lines
from inheritune.data.sources.storage import BLOCK, Damaged, explained, open_bytes
from inheritune.data.sources.texts import LARGEST, Fault, Text, no_column, no_text
from inheritune.data.sources.transcoding import NotText, decode

_ROWS = 256  # of a parquet file at once: what is in memory, besides a page of the file


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
    csv.field_size_limit(LARGEST)
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
            for batch in table.iter_batches(_ROWS, columns=[text_key], use_threads=False):
                yield from column_texts(one, batch.column(0), number, text_key, fault)
                number += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"not a whole .parquet file ({error})", "fetch the file again, or exclude it") from None


def column_texts(one: Input, column: Any, before: int, text_key: str, fault: Fault) -> Iterator[Text]:
    """The values of an Arrow column of text that stands behind `before` rows of the file."""
    for number, value in enumerate(column, start=before + 1):
        place = f"{one.address}: row {number}"
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
