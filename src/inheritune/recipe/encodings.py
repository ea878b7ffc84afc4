"""Names of character encodings, the values of a source's `encoding`."""

import codecs
import difflib
from encodings.aliases import aliases

AUTO = "auto"
# Codecs of text that no file uses: escapes in source code, host names, and the one that always fails.
_NOT_OF_FILES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
_SHOWN = {"iso8859-1": "latin-1", "utf-8-sig": "utf-8"}


def parse_encoding(value: object) -> str:
    """Python's own name of an encoding, or `auto`. Raises ValueError with what is legal for anything else."""
    if value == AUTO:
        return AUTO
    try:
        codec = codecs.lookup(str(value))
    except (LookupError, ValueError):  # a NUL in the name is a ValueError
        codec = None
    if codec is None or not is_of_files(codec):
        near = difflib.get_close_matches(str(value).lower().replace("-", "_"), [*aliases, *aliases.values()], n=3)
        raise ValueError(
            "legal are auto, utf-8, latin-1, cp1252, utf-16 and the other text encodings that Python knows"
            + (f"; nearest: {', '.join(dict.fromkeys(near))}" if near else "")
        )
    return _SHOWN.get(codec.name, codec.name)


def is_of_files(codec: codecs.CodecInfo) -> bool:
    """Whether a codec decodes bytes to text, a block at a time."""
    is_text = getattr(codec, "_is_text_encoding", True)
    return is_text and codec.incrementaldecoder is not None and codec.name.replace("_", "-") not in _NOT_OF_FILES
