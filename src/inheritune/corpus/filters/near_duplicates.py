"""Near-duplicates by MinHash: datatrove's stages over the parts of a corpus, and what they found."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.errors import RunError
from inheritune.recipe import NearDuplicates

if TYPE_CHECKING:
    from datatrove.pipeline.dedup import MinhashConfig
    from numpy.typing import NDArray

Step = Callable[..., Any]
_SPARE_FILES = 64  # open files besides the signatures: logs, libraries, pipes


def near_duplicate_stages(
    settings: NearDuplicates, read_part: Step, parts: int, folder: Path
) -> list[tuple[str, list[Step], int]]:
    """Name, pipeline and number of tasks of each stage; they run one after the other, their tasks in any order.

    `read_part(data, rank, world_size)` is a pipeline step that yields the documents of part `rank` of `parts`, in the
    same order at every call. All files are written below `folder`. Raises RunError when the system does not let a
    process open one file for each part.
    """
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature

    _check_open_files(parts)
    config = _config(settings)
    signatures, pairs = str(folder / "signatures"), str(folder / "pairs")
    return [
        (
            "near-duplicates-signatures",
            [read_part, MinhashDedupSignature(signatures, config, settings.language)],
            parts,
        ),
        (
            "near-duplicates-buckets",
            [_allow_open_files, MinhashDedupBuckets(signatures, pairs, config=config)],
            settings.buckets,
        ),
        (
            "near-duplicates-clusters",
            [_no_progress_bar, MinhashDedupCluster(pairs, str(folder / "clusters"), config, save_cluster_id=True)],
            1,
        ),
    ]


def clusters(folder: Path, part: int) -> "tuple[NDArray[Any], NDArray[Any]]":
    """The documents of a part that are like others, once all stages have run, and the clusters that they are in.

    Two arrays of equal length: the documents' numbers from 0 in what `read_part` yields, and the clusters' numbers,
    which hold for all parts. Which documents are in one cluster depends on the documents alone.
    """
    file = folder / "clusters" / f"{part:06d}.clusters"
    found = np.fromfile(file, dtype="<u4").reshape(-1, 2) if file.exists() else np.zeros((0, 2), "<u4")
    return found[:, 0], found[:, 1]


def _config(settings: NearDuplicates) -> "MinhashConfig":
    from datatrove.pipeline.dedup import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    return MinhashConfig(
        n_grams=settings.n_grams,
        num_buckets=settings.buckets,
        hashes_per_bucket=settings.hashes_per_bucket,
        hash_config=HashConfig(hash_fc="sha1"),  # datatrove's call of xxhash fails from xxhash 4 on
    )


def _check_open_files(parts: int) -> None:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and parts + _SPARE_FILES > most:
        raise RunError(
            "near_duplicates",
            f"{parts:,} parts are compared at once, and a process here may open {most:,} files",
            f"raise the hard limit (ulimit -Hn) to {parts + _SPARE_FILES}, or leave near_duplicates away",
        )


def _allow_open_files(data: None, rank: int = 0, world_size: int = 1) -> None:
    """A pipeline step that reads nothing: the next one opens the signatures of all parts at once."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _no_progress_bar(data: None, rank: int = 0, world_size: int = 1) -> None:
    """A pipeline step that reads nothing: the next one would draw a bar over the terminal."""
    from datatrove.pipeline.dedup import minhash

    minhash.tqdm = lambda iterable, **_: iterable
