"""The filter `near_duplicates`: MinHash, by datatrove's stages over the parts of a corpus."""

import hashlib
import json
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from inheritune.corpus.filters.base import CorpusFilter, Count, Words
from inheritune.corpus.filters.words import SharedTokenizer
from inheritune.errors import RunError

if TYPE_CHECKING:
    from datatrove.data import Document

    from inheritune.corpus.building.execution import Stages, Step
    from inheritune.corpus.building.selection import Candidates
    from inheritune.data.shards import Array

_SPARE_FILES = 64  # open files besides the signatures: logs, libraries, pipes


class NearDuplicates(CorpusFilter):
    """Keeps one of all documents that are nearly alike, by MinHash of their n-grams (Broder, 1997)."""

    filter: Literal["near_duplicates"] = "near_duplicates"
    """The filter's name."""
    n_grams: Count = 5
    """Words in an n-gram; shorter documents are never near-duplicates."""
    buckets: Count = 14
    """Signatures per document; two documents with one in common are near-duplicates."""
    hashes_per_bucket: Count = 8
    """Hashes in a signature. Two documents that share the part s of their n-grams (Jaccard) are found with probability
    1 - (1 - s^hashes_per_bucket)^buckets: 0.92 for s = 0.8."""
    language: Words = "en"

    def marks(
        self, number: int, candidates: "Candidates", taken: set[bytes], work: Path, stages: "Stages"
    ) -> "list[Array]":
        """Mark the documents of each cluster, except the first by `Candidates.ranks` and those in validation."""
        from inheritune.corpus.building.selection import among

        is_taken, paths = among(taken), [files.part.path for files in candidates.parts]
        kept = [rows["removed"] == 0 for rows in candidates]
        # Other documents are another comparison, with files of its own.
        digest = hashlib.sha256(json.dumps([self.model_dump(), [path.name for path in paths]]).encode())
        for mask in kept:
            digest.update(np.packbits(mask).tobytes())
        run = digest.hexdigest()[:12]
        folder = work / f"near-duplicates-{run}"
        for name, pipeline, tasks in near_duplicate_stages(self, ReadKept(paths, kept), len(paths), folder):
            stages.run(f"{name}-{run}", pipeline, tasks)
        columns = []
        for part, mask in enumerate(kept):
            documents, cluster = clusters(folder, part)
            at = np.flatnonzero(mask)[documents]
            rows = candidates.index(part)[at]
            order = cluster, ~is_taken(rows), *candidates.ranks(rows), np.full(len(at), part), at
            columns.append(np.stack([column.astype("<u8") for column in order]))
        table = np.concatenate(columns, axis=1)
        table = table[:, np.lexsort(table[::-1])]
        cluster, free, key = table[0], table[1], table[3]
        like = cluster[1:] == cluster[:-1]
        # Several of a cluster may be in validation: there, the documents that connect them were missing.
        like &= (free[1:] == 1) | (key[1:] == key[:-1])
        marks: list[Array] = [np.zeros(len(mask), np.uint8) for mask in kept]
        for part, row in table[-2:, 1:][:, like].T:
            marks[int(part)][int(row)] = number
        return marks


@dataclass(repr=False)  # datatrove would write a long one into each log
class ReadKept:
    """A step: reads the documents of a part that no filter has removed so far."""

    parts: list[Path]
    kept: "list[Array]"

    def __call__(self, data: None, rank: int, world_size: int) -> "Iterator[Document]":
        """The documents of part number `rank`, in its order."""
        from datatrove.data import Document

        from inheritune.corpus.building.collection import records

        for record, kept in zip(records(self.parts[rank]), self.kept[rank], strict=True):
            if kept:
                yield Document(text=record["text"], id=record["place"])


def near_duplicate_stages(
    settings: NearDuplicates, read_part: "Step", parts: int, folder: Path
) -> "list[tuple[str, list[Step], int]]":
    """The name, pipeline and number of tasks of each stage. The tasks of a stage run in any order.

    `read_part(data, rank, world_size)` is a pipeline step that yields the documents of part `rank` of `parts`, always
    in the same order. All files are written below `folder`. Raises RunError where the system does not let a process
    open one file for each part.
    """
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and parts + _SPARE_FILES > most:
        raise RunError(
            "near_duplicates",
            f"{parts:,} parts are compared at once, and a process here may open {most:,} files",
            f"raise the hard limit (ulimit -Hn) to {parts + _SPARE_FILES}, or remove near_duplicates",
        )
    config = MinhashConfig(
        n_grams=settings.n_grams,
        num_buckets=settings.buckets,
        hashes_per_bucket=settings.hashes_per_bucket,
        hash_config=HashConfig(hash_fc="sha1"),  # datatrove's call of xxhash fails from xxhash 4 on
    )
    signatures, pairs, groups = (str(folder / name) for name in ("signatures", "pairs", "clusters"))
    write = MinhashDedupSignature(signatures, config, settings.language)
    write.word_tokenizer = SharedTokenizer(settings.language)
    compare = MinhashDedupBuckets(signatures, pairs, config=config)
    group = MinhashDedupCluster(pairs, groups, config, save_cluster_id=True)
    return [
        ("near-duplicates-signatures", [read_part, write], parts),
        ("near-duplicates-buckets", [_allow_open_files, compare], settings.buckets),
        ("near-duplicates-clusters", [_no_progress_bar, group], 1),
    ]


def clusters(folder: Path, part: int) -> "tuple[Array, Array]":
    """The documents of a part that are like others, and their clusters, after all stages.

    Two arrays of equal length: the numbers of the documents, from 0, in what `read_part` yields, and the numbers of
    their clusters, which are the same in all parts. Clusters depend on the documents alone.
    """
    file = folder / "clusters" / f"{part:06d}.clusters"
    pairs = np.fromfile(file, dtype="<u4").reshape(-1, 2) if file.exists() else np.zeros((0, 2), "<u4")
    return pairs[:, 0], pairs[:, 1]


def _allow_open_files(data: None, rank: int = 0, world_size: int = 1) -> None:
    """A pipeline step that reads nothing: the next one opens the signatures of all parts at once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _no_progress_bar(data: None, rank: int = 0, world_size: int = 1) -> None:
    """A pipeline step that reads nothing: the next one would draw a bar over the terminal."""
    from datatrove.pipeline.dedup import minhash

    minhash.tqdm = lambda iterable, **_: iterable
