"""Sequences: the text cut into pieces, with the inputs and targets of a model for each piece.

One rule holds for training, evaluation, analysis and distillation: the prefix, which the model's own tokenizer puts
before a text, precedes every sequence and every document in it. Its tokens are context: they are never predicted and
count in no budget.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.conversations import BEGINS, COUNTS, Long, MarkedTokens, place_conversations, placed_rows
from inheritune.data.order import batch_numbers, batch_windows
from inheritune.data.shards import Array, Tokens
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch

_AT_ONCE = 1024  # sequences
IGNORED = -100
"""torch's mark for a target that does not count."""


@dataclass(frozen=True)
class Packing:
    """How text becomes the input of a model.

    `prefix` are the tokens before every sequence and document. `end_of_text` is the token that ends a document; None
    where it is unknown. With `documents`, attention stays inside each document. `long_conversations` says what happens
    to conversations that exceed a sequence.
    """

    prefix: tuple[int, ...] = ()
    end_of_text: int | None = None
    documents: bool = False
    long_conversations: Long = "truncate"

    @property
    def context(self) -> int:
        """How many tokens of the text precede the first target of a sequence: one, or none with a prefix."""
        return 0 if self.prefix else 1


@dataclass(frozen=True)
class Examples:
    """The inputs and targets of a model for B sequences.

    `inputs` and `targets` have the shape (B, T); a target that does not count is IGNORED. `lengths` has the number of
    inputs of each sequence, which padding without targets follows. `positions` (B, T) are the places of tokens in their
    documents, where attention stays inside documents. `places` (B, L) are the inputs that predict the L tokens of the
    text in each sequence, -1 for a token that no input predicts; None if input i predicts token i for every i.
    `segments` (B, T) numbers the conversations of a sequence, from 0, by target; None for text.
    """

    inputs: "torch.Tensor"
    targets: "torch.Tensor"
    lengths: tuple[int, ...]
    positions: "torch.Tensor | None" = None
    places: "torch.Tensor | None" = None
    segments: "torch.Tensor | None" = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def counted(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())

    @property
    def counts(self) -> "torch.Tensor":
        """How many targets of each sequence count, shape (B,); at least 1, so that a loss can be divided by it."""
        return (self.targets != IGNORED).sum(dim=1).clamp(min=1)

    def to(self, device: "torch.device | str") -> "Examples":
        """The same on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Examples":
        """The same in pinned memory, from which a GPU reads while it computes."""
        return self._map(lambda tensor: tensor.contiguous().pin_memory())

    def part(self, first: int, last: int) -> "Examples":
        """Sequences `first` to `last` (exclusive), padded to the longest of them; conversations keep their length, so
        that batches have one shape.
        """
        lengths = self.lengths[first:last]
        rows = replace(self._map(lambda tensor: tensor[first:last]), lengths=lengths)
        return rows if self.segments is not None else rows.cut(max(lengths))

    def cut(self, width: int) -> "Examples":
        """The first `width` inputs and targets of each sequence."""
        tensors = {name: getattr(self, name) for name in ("inputs", "targets", "positions", "segments")}
        cut: dict[str, Any] = {name: None if one is None else one[:, :width] for name, one in tensors.items()}
        return replace(self, **cut)

    def _map(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Examples":
        tensors = {name: value for name, value in vars(self).items() if name != "lengths" and value is not None}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class Rows:
    """Pieces of text of equal length, (N, context + L) tokens, and how they are packed.

    Negative tokens fill a piece at the end of a text that is shorter. `marks`, of the windows' shape, are those of
    conversations; None for text.
    """

    windows: Array
    packing: Packing = Packing()
    marks: Array | None = None

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self.windows)

    @property
    def sequence_length(self) -> int:
        """The predicted tokens of each piece, L."""
        return int(self.windows.shape[1]) - self.packing.context

    @property
    def predicted(self) -> Array:
        """The tokens of the text, (N, L), IGNORED or negative where none is predicted: a stored prefix, padding."""
        tokens = self.windows[:, self.packing.context :]
        if self.marks is not None:
            return np.where(self.marks[:, self.packing.context :] & COUNTS > 0, tokens, IGNORED)
        if not self.packing.prefix:
            return tokens
        return np.where(_stored_prefixes(self.windows, self.packing)[1], IGNORED, tokens)

    def rows(self, numbers: Sequence[int] | Array) -> "Rows":
        """The pieces of these numbers, or where a boolean array is true."""
        chosen = np.asarray(numbers)
        chosen = chosen if chosen.dtype == bool else chosen.astype(np.int64)
        return self._map(lambda values: values[chosen])

    def cut(self, length: int) -> "Rows":
        """The text of each piece in shorter ones of `length` predicted tokens; the rest is dropped."""
        context, each = self.packing.context, self.sequence_length // length
        places = (np.arange(each) * length)[:, None] + np.arange(context + length)
        return self._map(lambda values: values[:, places].reshape(-1, context + length))

    def _map(self, change: Callable[[Array], Array]) -> "Rows":
        marks = None if self.marks is None else change(self.marks)
        return replace(self, windows=change(self.windows), marks=marks)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The inputs of each piece."""
        return self.examples().lengths

    def examples(self) -> Examples:
        """The inputs and targets, on the CPU."""
        if self.marks is not None:
            return _conversation_examples(self.windows, self.marks, self.packing)
        return _examples(self.windows, self.packing)

    def batches(self, size: int) -> Iterator[tuple[Array, Examples]]:
        """All pieces and their numbers, up to `size` at a time; those of one batch are equally long, so none is padded.

        Most have one length; a piece is longer by a prefix for each document that begins in it.
        """
        lengths = np.asarray(self.lengths)
        for length in np.unique(lengths):
            numbers = np.flatnonzero(lengths == length)
            for first in range(0, len(numbers), size):
                some = numbers[first : first + size]
                examples = self.rows(some).examples()
                yield some, examples if self.marks is None else examples.cut(int(length))


class Sequences:
    """A row of tokens cut into sequences of L predicted tokens.

    With a prefix, a sequence is the L tokens. Without one it begins with the last token of the sequence before, so that
    every token except the first is predicted exactly once. A rest that fills no sequence is dropped. `sampling` is the
    order in which a training takes them; `with replacement` takes windows that begin anywhere.

    Tokens with marks are conversations. A sequence then begins with one and holds whole ones, `place_conversations`
    says which; the rest of it is filled up. `placement` is None for text. Where a sequence begins is counted as if
    each before it took L tokens of the row.
    """

    def __init__(
        self, tokens: "Tokens | MarkedTokens | Array", sequence_length: int, place: str, sampling: str = "shuffled",
        packing: Packing = Packing(),
    ) -> None:  # fmt: skip
        """Raises InputError when there are too few tokens for one sequence."""
        self.tokens, self.sequence_length, self.sampling, self.packing = tokens, sequence_length, sampling, packing
        self.marks = None if isinstance(tokens, np.ndarray) else tokens.marks
        self.placement = None
        self.count = (len(tokens) - packing.context) // sequence_length
        if self.marks is not None:
            _check_conversations(packing, sampling)
            size = packing.context + sequence_length
            self.placement = place_conversations(self.marks, size, packing.long_conversations)
            self.count = len(self.placement.starts_N)
        self._first = 0  # where a part of the text begins, in tokens
        self._starts = len(tokens) - packing.context - sequence_length + 1  # of windows that begin anywhere
        if self.count < 1 and self.placement is not None:
            what = f"no conversation fits into a sequence of {sequence_length} tokens"
            raise InputError(place, what, "give a larger train.sequence_length, or data.long_conversations: truncate")
        if self.count < 1:
            raise InputError(
                place,
                f"{len(tokens)} tokens do not fill one sequence of {sequence_length}",
                "give more text, or a smaller train.sequence_length",
            )

    def part(self, first: int, count: int) -> "Sequences":
        """`count` sequences from number `first` on, as a text of their own."""
        own = copy.copy(self)
        own.count, own._first = count, self._first + first * self.sequence_length
        own._starts = (count - 1) * self.sequence_length + 1
        return own

    @property
    def longest(self) -> int:
        """The inputs of the longest sequence, prefixes of documents included. Reads the whole text."""
        pieces = range(0, self.count, _AT_ONCE)
        return max(max(self.rows(range(first, min(first + _AT_ONCE, self.count))).lengths) for first in pieces)

    @property
    def left_over(self) -> int:
        """Tokens that are in no sequence: at the end, of conversations that are too long; none with windows that begin
        anywhere.
        """
        if self.placement is not None:
            return self.placement.left_out
        whole = len(self.tokens) - self.packing.context - self.count * self.sequence_length
        return whole if self.sampling == "shuffled" else 0

    def rows(self, numbers: Sequence[int] | Array) -> Rows:
        """The sequences of these numbers."""
        return self.windows(self._first + np.asarray(numbers, np.int64) * self.sequence_length)

    def windows(self, starts: Array) -> Rows:
        """The sequences that begin at these tokens of the text."""
        size = self.packing.context + self.sequence_length
        if self.placement is not None and self.marks is not None:
            numbers = starts // self.sequence_length
            firsts_B, sizes_B = self.placement.starts_N[numbers], self.placement.sizes_N[numbers]
            row = self.tokens.tokens if isinstance(self.tokens, MarkedTokens) else self.tokens
            tokens, marks = (
                placed_rows(values, firsts_B, sizes_B, size, fill) for values, fill in ((row, IGNORED), (self.marks, 0))
            )
            return Rows(tokens, self.packing, marks)
        assert not isinstance(self.tokens, MarkedTokens)
        if isinstance(self.tokens, Tokens):
            return Rows(self.tokens.rows(starts, size).astype(np.int64), self.packing)
        return Rows(self.tokens[starts[:, None] + np.arange(size)].astype(np.int64), self.packing)

    def batch_starts(self, step: int, batch: int, seed: int) -> Array:
        """The tokens at which the sequences of a training's batch of this number begin, shape (batch,)."""
        if self.sampling == "with replacement":
            return self._first + np.asarray(batch_windows(step, batch, self._starts, seed))
        return self._first + np.asarray(batch_numbers(step, batch, self.count, seed)) * self.sequence_length


def placement_line(text: Sequences) -> str | None:
    """How conversations fill the sequences, and how many were too long, for people; None for other text."""
    placed, length = text.placement, text.sequence_length
    if placed is None:
        return None
    share = float(placed.sizes_N.mean()) / (length + text.packing.context)
    words = f"{placed.conversations:,} conversations fill {share:.0%} of {text.count:,} sequences of {length:,} tokens"
    done = {"truncate": "only their beginning is kept", "drop": "they are excluded", "split": "they are divided"}
    longer = "" if not placed.longer else f"; {placed.longer:,} are longer: {done[text.packing.long_conversations]}"
    return f"{words}{longer}"


def _check_conversations(packing: Packing, sampling: str) -> None:
    """Raise InputError where conversations would be cut at any place, or a prefix put before them."""
    if sampling == "with replacement":
        what = "with replacement takes windows that begin anywhere, and conversations begin with their first message"
        raise InputError("train.sampling", what, "give shuffled")
    if packing.prefix:
        what = "the tokenizer's prefix before conversations, whose template has its own beginning"
        raise InputError("prefix", what, "give none")


def _conversation_examples(windows: Array, marks: Array, packing: Packing) -> Examples:
    """The inputs of conversations that fill windows (B, 1 + L) as far as they go, and the targets that count."""
    import torch

    begins, inputs = marks & BEGINS > 0, (windows >= 0).sum(axis=1) - 1
    targets = np.where((windows >= 0) & (marks & COUNTS > 0), windows, IGNORED)[:, 1:]
    positions = None
    if packing.documents:
        begins[:, 0] = True
        positions = torch.from_numpy(_positions(begins, inputs + 1)[:, :-1])
    return Examples(
        torch.from_numpy(np.maximum(windows, 0))[:, :-1], torch.from_numpy(targets), tuple(inputs.tolist()), positions,
        segments=torch.from_numpy(begins[:, 1:].cumsum(axis=1)),
    )  # fmt: skip


def _examples(windows: Array, packing: Packing) -> Examples:
    """Put the prefix before pieces of text (B, context + L) and before the documents in them, and mark the targets."""
    import torch

    if not packing.prefix and not packing.documents and (windows >= 0).all():
        rows = torch.from_numpy(windows)
        return Examples(rows[:, :-1], rows[:, 1:].clone(), (windows.shape[1] - 1,) * len(windows))
    counts = windows >= 0
    lengths = counts.sum(axis=1) - 1
    counts[:, : packing.context] = False
    tokens, begins, places = np.maximum(windows, 0), _document_starts(windows, packing), None
    if packing.prefix:
        first, stored = _stored_prefixes(windows, packing)
        # where the prefix is the end-of-text token (OPT), the end of a document is the prefix of the next one
        shared = packing.prefix == (packing.end_of_text,) and not packing.documents
        sites = np.zeros_like(begins) if shared else begins & ~first
        sites[:, 0] = ~first[:, 0]
        lengths = lengths + len(packing.prefix) * sites.sum(axis=1)
        tokens, counts, begins, columns = _framed(tokens, sites, begins, counts & ~stored, packing.prefix)
        places = columns - 1
        if places.shape[1] == tokens.shape[1] - 1 and (places == np.arange(places.shape[1])).all():
            places = None
    targets = np.where(counts, tokens, IGNORED)[:, 1:]
    positions = _positions(begins, lengths)[:, :-1] if packing.documents else None
    inputs, optional = torch.from_numpy(tokens)[:, :-1], [positions, places]
    more = [None if array is None else torch.from_numpy(array) for array in optional]
    return Examples(inputs, torch.from_numpy(targets), tuple(lengths.tolist()), *more)


def _document_starts(windows: Array, packing: Packing) -> Array:
    """Where a sequence or, after an end-of-text token, a document begins: booleans of the windows' shape."""
    starts = np.zeros(windows.shape, bool)
    if packing.end_of_text is not None and (packing.prefix or packing.documents):
        starts[:, 1:] = (windows[:, :-1] == packing.end_of_text) & (windows[:, 1:] >= 0)
    starts[:, 0] = True
    return starts


def _stored_prefixes(windows: Array, packing: Packing) -> tuple[Array, Array]:
    """Where the text itself has the prefix, as external token files may: its first token, and all its tokens.

    Where end-of-text is part of the prefix, this is nowhere: such a token of the text ends a document. Either end of a
    window may cut a prefix.
    """
    first = np.zeros(windows.shape, bool)
    if packing.end_of_text in packing.prefix:
        return first, first
    width = windows.shape[1]
    first[:] = True
    for place, token in enumerate(packing.prefix):
        first[:, : width - place] &= windows[:, place:] == token
    every = np.zeros(windows.shape, bool)
    for place in range(len(packing.prefix)):
        every[:, place:] |= first[:, : width - place]
    for cut in range(1, len(packing.prefix)):  # a prefix that began before the window
        rest = packing.prefix[cut:]
        every[:, : len(rest)] |= (windows[:, : len(rest)] == rest[:width]).all(axis=1, keepdims=True)
    return first, every


def _framed(
    windows: Array, sites: Array, starts: Array, counts: Array, prefix: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """Pieces with `prefix` inserted at `sites`, padded with 0: tokens, which of them count, where documents begin, and
    the column of each predicted token of the text.
    """
    size = len(prefix)
    columns = np.arange(windows.shape[1]) + size * np.cumsum(sites, axis=1)
    shape = (len(windows), int(columns[:, -1].max()) + 1 if len(windows) else 0)
    tokens, counted, begins = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, bool)
    row = np.arange(len(windows))[:, None]
    tokens[row, columns] = windows
    counted[row, columns] = counts
    at_row, at_window = np.nonzero(sites)
    for place, token in enumerate(prefix):
        tokens[at_row, columns[at_row, at_window] - size + place] = token
    at_row, at_window = np.nonzero(starts)
    begins[at_row, columns[at_row, at_window] - size * sites[at_row, at_window]] = True
    return tokens, counted, begins, columns


def _positions(begins: Array, lengths: Array) -> Array:
    """The place of each token in its document, from where documents begin, (B, T); padding is a document of its own."""
    places = np.arange(begins.shape[1])
    begins = begins | (places == lengths[:, None])
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
