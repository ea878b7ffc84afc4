"""A fastText classifier written by hand: fastText's own training fails now and then on texts as small as a test's."""

import struct
from collections.abc import Sequence
from pathlib import Path

END_OF_LINE = "</s>"


def write_classifier(
    path: Path, words: dict[str, Sequence[str]], strength: float = 6.0, end_of_line: bool = True
) -> Path:
    """A model with a label for each key of `words`, which its words speak for; `end_of_line` speaks for none.

    Without `end_of_line` the model has nothing to say about a text without a word that it knows.
    """
    labels = list(words)
    vectors = {END_OF_LINE: [0.0] * len(labels)} if end_of_line else {}
    for number, label in enumerate(labels):
        for word in words[label]:
            vectors[word] = [strength * (number == place) for place in range(len(labels))]
    supervised, softmax = 3, 3
    raw = struct.pack("<ii", 793712314, 12)
    raw += struct.pack("<12id", len(labels), 5, 1, 1, 5, 1, softmax, supervised, 0, 0, 0, 100, 1e-4)
    raw += struct.pack("<iiiqq", len(vectors) + len(labels), len(vectors), len(labels), len(vectors), -1)
    for kind, names in enumerate((vectors, [f"__label__{label}" for label in labels])):
        for name in names:
            raw += name.encode() + b"\0" + struct.pack("<qb", 1, kind)
    raw += struct.pack("<?qq", False, len(vectors), len(labels))
    raw += b"".join(struct.pack(f"<{len(labels)}f", *vector) for vector in vectors.values())
    raw += struct.pack("<?qq", False, len(labels), len(labels))
    raw += b"".join(
        struct.pack(f"<{len(labels)}f", *(float(i == j) for j in range(len(labels)))) for i in range(len(labels))
    )
    path.write_bytes(raw)
    return path
