"""A few sequences, evenly spread, to look at models with."""

from inheritune.data.sequences import Rows, Sequences
from inheritune.errors import InputError


def sample(sequences: Sequences, count: int, place: str, or_fewer: bool = False) -> Rows:
    """`count` sequences spread evenly over all.

    Where there are fewer: with `or_fewer` all of them, else InputError.
    """
    if or_fewer:
        count = min(count, sequences.count)
    if count > sequences.count:
        length = sequences.sequence_length
        what = f"{count} sequences of {length} tokens asked for, the text has {sequences.count}"
        raise InputError(place, what, f"give more text, or ask for at most {sequences.count}")
    return sequences.rows([number * sequences.count // count for number in range(count)])
