"""From text to token files: validation set apart, an exact training subset drawn, both written once."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.documents import Corpus, Document
from inheritune.data.prepared import FORMAT, Prepared, open_prepared
from inheritune.data.tokenizer import fingerprint, separator, train_tokenizer
from inheritune.errors import InputError
from inheritune.recipe import Data, NewTokenizer, check
from inheritune.runlog import checksum, new_folder, versions, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Say = Callable[[str], None]
_BATCH_CHARACTERS = 4_000_000
_BATCH_DOCUMENTS = 2_000
# A byte-level tokenizer makes at least one token of so many bytes of ordinary text; by this the documents that may
# become validation are kept from a new tokenizer, which must exist before tokens can be counted.
_BYTES_PER_TOKEN = 16


@dataclass
class _Tally:
    """What went into one token file."""

    tokens: int = 0
    documents: int = 0
    by_source: dict[int, int] = field(default_factory=dict)
    largest: int = 0


def prepare(
    data: Data | dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase | NewTokenizer",
    out: str | Path,
    *,
    seed: int = 1,
    say: Say = lambda line: None,
) -> Prepared:
    """Tokenise `data.sources` into the folder `out`: shards of tokens, tokenizer/, manifest.json.

    Validation takes whole documents in the order of a hash of their text, until `data.validation` tokens are reached;
    training takes whole documents in an order drawn with the seed, until exactly `data.size` tokens, the last one cut.
    A document whose text is in validation is never in training. Every document ends with the end-of-text token.

    The folder appears whole or not at all. Raises InputError for text that cannot be read, is empty or too little.
    """
    began = time.monotonic()
    out = Path(out)
    data = data if isinstance(data, Data) else check(Data, data, "data")
    seed = seed if data.seed is None else data.seed
    say("data: finding documents")
    corpus = Corpus(data.sources)
    by_hash = sorted(range(len(corpus.documents)), key=lambda i: (corpus.documents[i].digest, i))
    if isinstance(tokenizer, NewTokenizer):
        say(f"data: training a tokenizer of {tokenizer.vocabulary} entries")
        tokenizer = train_tokenizer(_tokenizer_texts(corpus, by_hash, data.validation.count), tokenizer.vocabulary)
    eos = separator(tokenizer, "reference.tokenizer")
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    with new_folder(out) as partial:
        say("data: tokenising")
        encode = _Encoder(corpus, tokenizer, eos, dtype)
        validation, taken = encode.validation(by_hash, data.validation.count, partial / "validation-00000.bin")
        training = encode.training(data, taken, seed, partial / "train-00000.bin")
        tokenizer.save_pretrained(partial / "tokenizer")
        manifest = {
            "format": FORMAT,
            "dtype": dtype.name,
            **_counts(corpus, training, validation),
            "end_of_text": eos,
            "tokenizer": fingerprint(tokenizer),
            "shards": {
                split: [
                    {
                        "file": f"{split}-00000.bin",
                        "tokens": tally.tokens,
                        "sha256": checksum(partial / f"{split}-00000.bin"),
                    }
                ]
                for split, tally in (("train", training), ("validation", validation))
            },
            "request": {**data.model_dump(mode="json"), "seed": seed},
            "versions": versions(),
            "seconds": round(time.monotonic() - began, 3),
        }
        write_json(partial / "manifest.json", manifest)
    say(f"data: {training.tokens:,} training tokens, {validation.tokens:,} validation tokens")
    return open_prepared(out)


def _counts(corpus: Corpus, training: "_Tally", validation: "_Tally") -> dict[str, Any]:
    """What went where, for the manifest."""
    return {
        "tokens": {"train": training.tokens, "validation": validation.tokens},
        "documents": {
            "train": training.documents,
            "validation": validation.documents,
            "found": len(corpus.documents),
        },
        "sources": [
            {
                "name": s.title,
                "train_tokens": training.by_source.get(i, 0),
                "validation_tokens": validation.by_source.get(i, 0),
            }
            for i, s in enumerate(corpus.sources)
        ],
        "largest_token": max(training.largest, validation.largest),
    }


def _tokenizer_texts(corpus: Corpus, by_hash: list[int], validation_tokens: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: all but the first half at most, which may become validation, each text once."""
    held, budget = 0, validation_tokens * _BYTES_PER_TOKEN
    seen = b""
    for rank, index in enumerate(by_hash):
        document = corpus.documents[index]
        if held < budget and rank < len(by_hash) // 2:
            held += document.end - document.start
        elif document.digest != seen:
            yield corpus.text(document)
        seen = document.digest


class _Encoder:
    """Writes documents as tokens."""

    def __init__(self, corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", eos: int, dtype: "np.dtype[Any]") -> None:
        self.corpus, self.tokenizer, self.eos, self.dtype = corpus, tokenizer, eos, dtype

    def validation(self, by_hash: list[int], wanted: int, path: Path) -> tuple[_Tally, set[bytes]]:
        """Write the validation file; returns what it holds and the digests that training must not use."""
        documents, taken = self.corpus.documents, set[bytes]()

        def unique() -> Iterator[Document]:
            for index in by_hash:
                if documents[index].digest not in taken:
                    taken.add(documents[index].digest)
                    yield documents[index]

        # Batches of one: `taken` must not run ahead of what is written, and no document may be cut.
        tally = self._write(unique(), path, enough=wanted)
        if tally.tokens < wanted:
            raise InputError(
                "data.validation",
                f"{wanted:,} tokens asked for, the text has {tally.tokens:,}",
                "give more text, or a smaller validation",
            )
        return tally, taken

    def training(self, data: Data, taken: set[bytes], seed: int, path: Path) -> _Tally:
        """Write the training file: each source's quota in turn, or one draw from all of them."""
        pool = [document for document in self.corpus.documents if document.digest not in taken]
        pool.sort(key=lambda d: (_draw(seed, d.digest), d.file, d.start))
        weights = [source.weight for source in data.sources]
        total = sum(weight for weight in weights if weight is not None)
        if data.size is None or not total:
            return self._quota(pool, None if data.size is None else data.size.count, path, "data.size")
        tally, left = _Tally(), data.size.count
        for number, source in enumerate(data.sources):
            share = left if number == len(weights) - 1 else round(data.size.count * (source.weight or 0) / total)
            left -= share
            mine = [document for document in pool if document.source == number]
            part = self._quota(mine, share, path, f"data.sources: {source.title}")
            tally.tokens, tally.documents = tally.tokens + part.tokens, tally.documents + part.documents
            tally.by_source.update(part.by_source)
            tally.largest = max(tally.largest, part.largest)
        return tally

    def _quota(self, pool: list[Document], wanted: int | None, path: Path, place: str) -> _Tally:
        tally = self._write(pool, path, exact=wanted)
        if tally.tokens < (wanted or 1):
            asked = (
                "some text besides validation is needed" if wanted is None else f"{wanted:,} training tokens asked for"
            )
            raise InputError(
                place,
                f"{asked}, there are {tally.tokens:,} beside the validation set",
                "give more text, or ask for less",
            )
        return tally

    def _write(
        self, documents: Iterable[Document], path: Path, enough: int | None = None, exact: int | None = None
    ) -> _Tally:
        """Append documents to a token file until `enough` tokens (no document cut) or `exact` tokens (the last cut)."""
        tally = _Tally()
        limit = exact if exact is not None else enough
        with path.open("ab") as file:
            for batch in self._batches(documents, single=enough is not None):
                texts = [self.corpus.text(document) for document in batch]
                for document, ids in zip(
                    batch,
                    self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"],
                    strict=True,
                ):
                    if limit is not None and tally.tokens >= limit:
                        break
                    row = np.asarray([*ids, self.eos])
                    if exact is not None:
                        row = row[: exact - tally.tokens]
                    file.write(row.astype(self.dtype).tobytes())
                    tally.tokens += len(row)
                    tally.documents += 1
                    tally.by_source[document.source] = tally.by_source.get(document.source, 0) + len(row)
                    tally.largest = max(tally.largest, int(row.max()))
                if limit is not None and tally.tokens >= limit:
                    break
        return tally

    def _batches(self, documents: Iterable[Document], single: bool) -> Iterator[list[Document]]:
        batch: list[Document] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += document.end - document.start
            if single or size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _draw(seed: int, digest: bytes) -> bytes:
    """A document's place in the order drawn with `seed`: a keyed hash, so the same on every machine."""
    return hashlib.blake2b(digest, digest_size=16, key=seed.to_bytes(8, "little")).digest()
