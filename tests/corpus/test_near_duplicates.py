import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
from datatrove.utils.word_tokenizers import SpaCyTokenizer

from inheritune.corpus.filters.near_duplicates import NearDuplicates, clusters, near_duplicate_stages
from inheritune.corpus.filters.words import SharedTokenizer
from inheritune.errors import RunError

PARTS = 4


def corpus() -> list[list[str]]:
    """Parts of documents of 200 made-up words; some repeat another one with more and more words exchanged."""
    draw = random.Random(3)
    vocabulary = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(4000)]
    documents = [draw.choices(vocabulary, k=200) for _ in range(40)]
    for number, exchanged in enumerate([0, 0, 1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 80]):
        copy = list(documents[number % 5])
        for place in draw.sample(range(200), exchanged):
            copy[place] = draw.choice(vocabulary)
        documents.append(copy)
    documents.append(["too", "short"])  # no n-gram: never a near-duplicate
    documents.append(["too", "short"])
    draw.shuffle(documents)
    texts = [" ".join(words).capitalize() + "." for words in documents]
    return [texts[:20], [], texts[20:33], texts[33:]]  # one part has nothing in it


TEXTS = corpus()


def read_part(data: None, rank: int = 0, world_size: int = 1) -> Any:
    from datatrove.data import Document

    for number, text in enumerate(TEXTS[rank]):
        yield Document(text=text, id=str(number))


def removed_by_stages(settings: NearDuplicates, folder: Path, workers: int) -> list[set[int]]:
    from datatrove.executor import LocalPipelineExecutor

    for name, pipeline, tasks in near_duplicate_stages(settings, read_part, PARTS, folder / "work"):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=str(folder / "logs" / name)).run()
    removed: list[set[int]] = []
    seen: set[int] = set()
    for part in range(PARTS):
        documents, found = (column.tolist() for column in clusters(folder / "work", part))
        again: set[int] = set()
        for document, cluster in zip(documents, found, strict=True):
            if cluster in seen:
                again.add(document)
            seen.add(cluster)
        removed.append(again)
    return removed


def shingles(text: str, n: int) -> set[str]:
    words = text.lower().rstrip(".").split()
    return {" ".join(words[start : start + n]) for start in range(len(words) - n + 1)}


def slow_clusters(settings: NearDuplicates) -> list[set[tuple[int, int]]]:
    """Documents with an equal signature, and those with a signature of theirs: MinHash in whole numbers of Python."""
    prime, count = (1 << 61) - 1, settings.buckets * settings.hashes_per_bucket
    draw = np.random.RandomState(1)
    factors, offsets = (draw.randint(least, prime, dtype=np.uint64, size=count).tolist() for least in (1, 0))
    places = [(part, number) for part, texts in enumerate(TEXTS) for number in range(len(texts))]
    owner: dict[Any, tuple[int, int]] = {}
    cluster = {place: {place} for place in places}
    for place in places:
        hashes = [
            int.from_bytes(hashlib.sha1(gram.encode()).digest()[:8], "little")
            for gram in shingles(TEXTS[place[0]][place[1]], settings.n_grams)
        ]
        if not hashes:
            continue
        least = [min((h * a + b) % (1 << 64) % prime for h in hashes) for a, b in zip(factors, offsets, strict=True)]
        for bucket in range(settings.buckets):
            start = bucket * settings.hashes_per_bucket
            first = owner.setdefault((bucket, *least[start : start + settings.hashes_per_bucket]), place)
            both = cluster[first] | cluster[place]
            for member in both:
                cluster[member] = both
    return list({id(found): found for found in cluster.values()}.values())


@pytest.mark.long
@pytest.mark.parametrize("settings", [NearDuplicates(), NearDuplicates(n_grams=3, buckets=5, hashes_per_bucket=3)])
def test_one_document_of_each_cluster_stays(settings: NearDuplicates, tmp_path: Path) -> None:
    removed = removed_by_stages(settings, tmp_path, workers=1)
    gone = {(part, number) for part in range(PARTS) for number in removed[part]}
    expected = slow_clusters(settings)
    assert sum(len(cluster) for cluster in expected) == sum(len(texts) for texts in TEXTS)
    assert max(len(cluster) for cluster in expected) > 2
    for cluster in expected:
        assert len(cluster - gone) == 1, cluster


@pytest.mark.long
def test_what_goes_is_like_something_that_stays(tmp_path: Path) -> None:
    removed = removed_by_stages(NearDuplicates(), tmp_path, workers=1)
    grams = {(part, number): shingles(text, 5) for part, texts in enumerate(TEXTS) for number, text in enumerate(texts)}
    like = dict.fromkeys(grams, 0.0)
    for one, other in itertools.combinations(grams, 2):
        union = grams[one] | grams[other]
        jaccard = len(grams[one] & grams[other]) / len(union) if union else 0.0
        like[one], like[other] = max(like[one], jaccard), max(like[other], jaccard)
    for place, jaccard in like.items():
        if jaccard < 0.3:
            assert place[1] not in removed[place[0]], (place, jaccard)
    gone = sum(len(found) for found in removed)
    assert (
        sum(jaccard > 0.9 for jaccard in like.values()) / 2 <= gone <= sum(jaccard > 0.3 for jaccard in like.values())
    )


@pytest.mark.long
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    alone = removed_by_stages(NearDuplicates(), tmp_path / "one", workers=1)
    assert removed_by_stages(NearDuplicates(), tmp_path / "three", workers=3) == alone
    for file in sorted((tmp_path / "one" / "work").rglob("*")):
        other = tmp_path / "three" / "work" / file.relative_to(tmp_path / "one" / "work")
        assert file.is_dir() or other.read_bytes() == file.read_bytes()


def test_more_parts_than_files_may_be_open_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    near_duplicate_stages(NearDuplicates(), read_part, 4000, tmp_path)
    with pytest.raises(RunError, match=r"4,090 parts .* may open 4,096 files; raise the hard limit"):
        near_duplicate_stages(NearDuplicates(), read_part, 4090, tmp_path)


@pytest.mark.long
def test_words_are_those_of_datatrove_s_tokenizer_and_no_step_carries_one() -> None:
    text = "We don't know, z. B. gibt's 3.5 km."
    words = {language: SharedTokenizer(language).word_tokenize(text) for language in ("en", "de")}
    assert words == {language: SpaCyTokenizer(language).word_tokenize(text) for language in words}
    assert words["en"] != words["de"]
    assert len(dill.dumps(SharedTokenizer("en"))) < 300
