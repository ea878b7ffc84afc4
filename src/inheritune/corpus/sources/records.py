"""Records of text files: the lines of a JSON lines file, the rows of a .csv file."""

import csv
import json
from collections.abc import Callable, Iterator
from typing import Any

from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.lines import Lines
from inheritune.corpus.sources.storage import Damaged
from inheritune.corpus.sources.texts import Fault, Text, no_column, no_text
from inheritune.corpus.sources.transcoding import NotText, decode
from inheritune.limits import DOCUMENT


def read_json_lines(one: Input, text_key: str, fault: Fault) -> Iterator[Text]:
    """The texts under `text_key`, one a line."""
    for lines, record in json_records(one, fault):
        text = record.get(text_key) if isinstance(record, dict) else None
        if isinstance(text, str):
            yield Text(lines.here(), text)
        else:
            fault(lines.place(), *no_text(record, text_key))


def json_records(one: Input, fault: Callable[[str, str, str], None]) -> Iterator[tuple[Lines, Any]]:
    """The records of a JSON lines file, each with its lines up to it. Empty lines are ignored."""
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
                fault(lines.place(), f"not a JSON record ({why})", "correct the line")
                continue
        yield lines, record


def _patient_loads(line: bytes, one: Input) -> Any:
    """A record that Python's reader accepts and stricter ones refuse: it has NaN or infinity beside the text."""
    record = json.loads(decode(line, one))
    # Python also accepts half a surrogate pair, which is no text and cannot be written as UTF-8.
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
                # The reader must see its quotes, or it would divide the records after it otherwise.
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
            if "field limit" in str(error):  # where the field ends is unknown
                line = place.removeprefix(f"{one.address}: ")
                what = f"{line} begins a record with a field of more than {DOCUMENT:,} characters"
                raise Damaged(what, "correct its quotes, or split the text into several records") from None
            row, what = [], f"not a row of a .csv file ({error})"
        if broken:
            fault(place, broken[0].what, broken[0].remedy)
            broken.clear()
        elif what is not None:
            fault(place, what, "correct the quotes")
        elif header is None:
            header = row
            if text_key not in header:
                raise Damaged(*no_column(text_key, header))
        elif len(row) == len(header):
            yield Text(place, row[header.index(text_key)])
        elif row:
            fault(place, f"{len(row)} fields, and the first line names {len(header)} columns", "correct the row")
