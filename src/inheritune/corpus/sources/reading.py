"""Reading the documents of an input by the source's rule, in bounded memory."""

import ast
import codecs
import itertools
import warnings
from collections.abc import Callable, Iterator

from inheritune.corpus.sources.conversations import read_conversations
from inheritune.corpus.sources.inputs import TABLES, Input, rule_of
from inheritune.corpus.sources.lines import Lines
from inheritune.corpus.sources.records import read_csv, read_json_lines
from inheritune.corpus.sources.storage import Damaged, kind
from inheritune.corpus.sources.streaming import read_stream
from inheritune.corpus.sources.tables import read_arrow, read_parquet
from inheritune.corpus.sources.texts import Fault, Text, too_long
from inheritune.corpus.sources.transcoding import UTF8, NotText, broken, decode, nul_byte, settled, text_blocks
from inheritune.data import ChatTemplate
from inheritune.limits import DOCUMENT, LINE_BYTES, PYTHON_BYTES
from inheritune.recipe import Size, Source

_SHORTEST_LITERAL = 200  # characters: shorter string literals are identifiers and messages, not text


def read(
    one: Input, source: Source, skipped: Callable[[str, str], None], *, seed: int,
    guessed: Callable[[str], None] = lambda encoding: None, template: ChatTemplate | None = None,
) -> Iterator[Text]:  # fmt: skip
    """The documents of an input that are not empty: in the file's order, or a stream's in an order drawn with `seed`.

    A document has at most `limits.DOCUMENT` characters. For text that cannot be read, raises InputError with file and
    line, or with `on_error: skip` calls `skipped(place, reason)`; of a file that cannot be read to its end, the whole
    documents before that place are yielded, and the rest counts once. Where the source's encoding is `auto`, calls
    `guessed(encoding)` before the first document. `template` makes the texts of conversations, where the source has
    them. Raises RunError when a disk or a connection fails.
    """
    fault = Fault(source, skipped)
    try:
        if source.dataset is None and kind(one.address) not in TABLES:
            one = settled(one)
            if one.guessed:
                guessed(one.encoding)
        for document in _documents(one, source, seed, fault, template):
            if len(document.text) > DOCUMENT:
                fault(document.place, *too_long(len(document.text)))
            elif document.text and not document.text.isspace():
                yield document
    except Damaged as error:
        fault(one.address, error.what, error.remedy)


def _documents(
    one: Input, source: Source, seed: int, fault: Fault, template: ChatTemplate | None
) -> Iterator[Text]:  # fmt: skip
    if source.messages_key is not None:
        assert template is not None
        return read_conversations(one, source, template, seed, fault)
    if source.dataset is not None:
        return read_stream(source, seed, fault)
    rule, suffix = rule_of(source, one.address), kind(one.address)
    if rule == "record":
        readers = {".csv": read_csv, ".parquet": read_parquet, ".arrow": read_arrow}
        return readers.get(suffix, read_json_lines)(one, source.text_key, fault)
    if suffix in TABLES:
        raise Damaged(f"a {suffix} file has rows, not documents of `document: {rule}`", "remove `document` for it")
    if isinstance(rule, Size):
        return _pieces(one, fault, rule.count)
    rules = {"file": _file, "line": _lines, "blank line": _blocks, "string literal": _literals}
    return rules[rule](one, fault)


def _file(one: Input, fault: Fault) -> Iterator[Text]:
    text = _decoded(_content(one), one, 1, fault)
    if text is not None:
        yield Text(one.address, text)


def _content(one: Input, most: int = LINE_BYTES) -> bytes:
    """The whole file as UTF-8. Raises Damaged for one that is too large to be a document."""
    held, size = [], 0
    for block in text_blocks(one):
        held.append(block)
        size += len(block)
        if size > most:
            remedy = "set `document` to how the file is divided into documents, for example 'blank line' or"
            raise Damaged(f"a document of more than {most:,} bytes", f"{remedy} '2K characters'")
    return b"".join(held).removeprefix(codecs.BOM_UTF8)


def _decoded(raw: bytes, one: Input, line: int, fault: Fault) -> str | None:
    """The text of bytes that begin at a line of a file; None where they are no text and `fault` skips them."""
    try:
        return decode(raw, one)
    except NotText as error:
        line += raw.count(b"\n", 0, error.start)
        fault(f"{one.address}: line {line}", error.what, error.remedy)
        return None


def _lines(one: Input, fault: Fault) -> Iterator[Text]:
    lines = Lines(one)
    for line in lines:
        try:
            yield Text(lines.here(), decode(line, one))
        except NotText as error:
            fault(lines.place(), error.what, error.remedy)


def _blocks(one: Input, fault: Fault) -> Iterator[Text]:
    """The blocks between empty lines."""
    lines = Lines(one)
    block: list[bytes] = []
    size = 0
    for line in itertools.chain(lines, [b""]):  # the empty one ends the last block
        if line.strip():
            if not block:
                first = lines.number
            block.append(line)
            size += len(line)
            if size > LINE_BYTES:
                what = f"line {first} begins a block of more than {LINE_BYTES:,} bytes without an empty line"
                remedy = "set `document` to how the file is divided into documents, for example '2K characters'"
                raise Damaged(what, remedy)
        elif block:
            text = _decoded(b"".join(block), one, first, fault)
            if text is not None:
                yield Text(f"{one.address}: line {first}", text)
            block, size = [], 0


def _literals(one: Input, fault: Fault) -> Iterator[Text]:
    """The long string literals of a Python file, in its order."""
    try:
        with warnings.catch_warnings(action="ignore"):  # they are for the author of the file
            content = _content(one, PYTHON_BYTES)
            # Python would read bytes by the encoding that the file declares (PEP 263), which is wrong here.
            tree = ast.parse(content if one.encoding == UTF8 else decode(content, one))
    except NotText as error:
        fault(one.address, error.what, error.remedy)
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "too deep inside each other"
        fault(one.address, f"not Python ({reason})", "exclude the file, or choose another `document` rule")
        return
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        text = str(node.value)
        if len(text) >= _SHORTEST_LITERAL:
            yield Text(f"{one.address}: line {node.lineno}", text)


def _pieces(one: Input, fault: Fault, length: int) -> Iterator[Text]:
    """Pieces of at most `length` characters, which together are the file."""
    line, offset, text = 1, 0, ""  # decoded and not yet yielded, and where it begins
    for more, wrong in _characters(one):
        text += more
        at = 0
        while len(text) - at > length:
            cut = _cut(text, at, length)
            yield Text(f"{one.address}: line {line}", text[at:cut], offset + at)
            line += text.count("\n", at, cut)
            at = cut
        text, offset = text[at:], offset + at
        if wrong is not None:
            line, offset = line + text.count("\n"), offset + len(text)
            text = ""
            fault(f"{one.address}: line {line}", wrong.what, wrong.remedy)
    if text:
        yield Text(f"{one.address}: line {line}", text, offset)


def _cut(text: str, at: int, length: int) -> int:
    """The end of the piece that begins at `at`: after the last white space of its last eighth, if there is any."""
    end = at + length
    last = text[end - max(length // 8, 1) : end]
    if last[-1].isspace() or text[end].isspace():
        return end
    word = last.rsplit(None, 1)[-1]
    return end - len(word) if len(word) < len(last) else end


def _characters(one: Input) -> Iterator[tuple[str, NotText | None]]:
    """The file's text in order, each part with the fault that follows it, whose bytes are left out."""
    raw, first = b"", True
    for block in itertools.chain(text_blocks(one), [b""]):  # the empty one ends the last character
        raw += block
        if b"\0" in block:
            raise nul_byte(raw, raw.index(b"\0"), one)
        if first:
            raw, first = raw.removeprefix(codecs.BOM_UTF8), False
        at = 0
        while True:
            try:
                more, used = codecs.utf_8_decode(memoryview(raw)[at:], "strict", not block)
            except UnicodeDecodeError as wrong:
                fault = broken(raw, at + wrong.start, at + wrong.end, one)
                yield raw[at : fault.start].decode(), fault
                at = fault.end
            else:
                yield more, None
                raw = raw[at + used :]
                break
