"""Clusters of validation text: the parts that are taken as independent of each other when errors are computed.

A cluster is a document. Where there are fewer than five, long ones are divided into contiguous stretches. Pieces that
were cut from one file count as one document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inheritune.data.conversations import BEGINS
from inheritune.data.sequences import IGNORED, Rows, Sequences
from inheritune.data.shards import Array

FEW_DOCUMENTS = 20
"""Below so many documents of equal size, errors are rough."""
_DIVIDED_BELOW = 5  # documents of equal size: fewer say too little about their spread
_STRETCHES = 10  # of all the text: few and long, as losses far apart in one text still resemble each other
_AT_ONCE = 1024  # sequences


@dataclass(frozen=True)
class Clusters:
    """The cluster of every predicted token, for C clusters.

    A segment is the part of one document in one sequence. `first_N` is the number of each sequence's first segment,
    `of_segment_S` the cluster of each segment. `tokens` are the predicted tokens of each cluster. `documents` is the
    number of documents, `effective_documents` that of equal ones which would say as much. With `is_divided`, clusters
    are stretches of documents.
    """

    first_N: Array
    of_segment_S: Array
    tokens: tuple[int, ...]
    documents: int
    effective_documents: float
    is_divided: bool
    end_of_text: int | None

    def of(self, numbers: Sequence[int], targets_BT: Array, segments_BT: Array | None = None) -> Array:
        """The cluster of each target of the sequences with these numbers, (B, T); 0 where a target does not count.

        `segments_BT` are those of conversations (`Examples.segments`).
        """
        counts_BT = targets_BT != IGNORED
        within_BT = _ends_before(targets_BT, self.end_of_text) if segments_BT is None else segments_BT
        segments_BT = self.first_N[np.asarray(numbers)][:, None] + within_BT
        clusters_BT: Array = self.of_segment_S[np.where(counts_BT, segments_BT, 0)] * counts_BT
        return clusters_BT


def clusters_of(text: Sequences | Rows, origins: Sequence[Sequence[int]] | None = None) -> Clusters:
    """The clusters of a text. Reads all of it.

    `origins` has, for each document, a number that pieces of one file share, and a number that orders them
    (`Prepared.validation_origins`). Where the ends of documents are unknown, the text is one document.
    """
    end = text.packing.end_of_text
    window = text.rows([0]).windows[0, : text.packing.context]
    document = 0 if end is None or text.marks is not None else int((window == end).sum())
    firsts, documents, tokens, segments = [], [], [], 0
    for start in range(0, text.count, _AT_ONCE):
        rows = text.rows(range(start, min(start + _AT_ONCE, text.count)))
        predicted_NL, before_NL = rows.predicted, segments_of(rows)
        parts_N = before_NL[:, -1] + 1
        ends_N, firsts_N = _document_counts(rows, end)
        first_N = segments + np.cumsum(parts_N) - parts_N
        document_N = document + np.cumsum(ends_N) - ends_N + firsts_N
        counted_NL = predicted_NL >= 0
        places_NL = before_NL + (first_N - segments)[:, None]
        tokens.append(np.bincount(places_NL[counted_NL], minlength=int(parts_N.sum())))
        documents.append(np.repeat(document_N - (first_N - segments), parts_N) + np.arange(parts_N.sum()))
        firsts.append(first_N)
        segments, document = segments + int(parts_N.sum()), document + int(ends_N.sum())
    tokens_S, document_S = np.concatenate(tokens), np.concatenate(documents)
    origin_S, position_S = _origins(document_S, origins)
    sizes = np.bincount(np.unique(origin_S, return_inverse=True)[1], weights=tokens_S)
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    is_divided = effective < _DIVIDED_BELOW
    cluster_S = _numbered(origin_S, position_S, tokens_S, _STRETCHES if is_divided else 0)
    counts = np.bincount(cluster_S, weights=tokens_S).astype(np.int64)
    return Clusters(
        np.concatenate(firsts), cluster_S, tuple(counts.tolist()), int((sizes > 0).sum()), effective, is_divided, end
    )


def segments_of(rows: Rows) -> Array:
    """How many documents or conversations end before each predicted token of its row, shape (N, L)."""
    if rows.marks is None:
        return _ends_before(rows.predicted, rows.packing.end_of_text)
    begin_NL = rows.marks[:, rows.packing.context :] & BEGINS > 0
    segments_NL: Array = begin_NL.cumsum(axis=1)
    return segments_NL


def _document_counts(rows: Rows, end: int | None) -> tuple[Array, Array]:
    """By how many documents each row goes on, (N,), and how far its first one is from those of all rows before."""
    if rows.marks is not None:
        begin_NL = rows.marks & BEGINS > 0
        return begin_NL.sum(axis=1), begin_NL[:, 0].astype(np.int64) - 1
    ends_N = np.zeros(len(rows), np.int64) if end is None else (rows.predicted == end).sum(axis=1)
    return ends_N, np.zeros_like(ends_N)


def _ends_before(tokens_NL: Array, end: int | None) -> Array:
    """How many documents end before each token of its row, shape (N, L)."""
    if end is None:
        return np.zeros(tokens_NL.shape, np.int64)
    is_end_NL = tokens_NL == end
    before_NL: Array = is_end_NL.cumsum(axis=1) - is_end_NL
    return before_NL


def _origins(document_S: Array, origins: Sequence[Sequence[int]] | None) -> tuple[Array, Array]:
    """The origin and the position in it of each segment; documents beyond `origins` have none and stand alone."""
    if origins is None:
        return document_S, np.zeros_like(document_S)
    known = np.asarray(origins, np.int64).reshape(-1, 2)
    is_known = document_S < len(known)
    found_S2 = known[np.where(is_known, document_S, 0)]
    alone_S = known[:, 0].max(initial=0) + 1 + document_S
    return np.where(is_known, found_S2[:, 0], alone_S), np.where(is_known, found_S2[:, 1], 0)


def _numbered(origin_S: Array, position_S: Array, tokens_S: Array, stretches: int) -> Array:
    """The cluster of each segment, numbered from 0: its origin, or with `stretches` one of about so many parts of all
    the text, which do not cross origins.
    """
    order = np.lexsort((np.arange(len(origin_S)), position_S, origin_S))
    tokens_S = tokens_S[order]
    number_S = np.unique(origin_S[order], return_inverse=True)[1]
    sizes = np.bincount(number_S, weights=tokens_S)
    parts = np.maximum(1, np.round(sizes / sizes.sum() * stretches)).astype(np.int64)
    middle_S = np.cumsum(tokens_S) - tokens_S / 2 - (np.cumsum(sizes) - sizes)[number_S]
    part_S = (middle_S / np.maximum(sizes[number_S], 1) * parts[number_S]).astype(np.int64)
    label_S = (np.cumsum(parts) - parts)[number_S] + np.minimum(part_S, parts[number_S] - 1)
    has_tokens = np.unique(label_S[tokens_S > 0])
    cluster_S = np.empty(len(origin_S), np.int64)
    cluster_S[order] = np.minimum(np.searchsorted(has_tokens, label_S), len(has_tokens) - 1)
    return cluster_S
