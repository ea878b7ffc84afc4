"""From text to token shards, in stages that run once each: collect, tokenise, select, write."""

import hashlib
import itertools
import json
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.corpus.building.collection import Collect, Part, parts, records, total
from inheritune.corpus.building.drawing import Supply, Thresholds, check_enough, first_thresholds, raised
from inheritune.corpus.building.execution import Stages, check_executor
from inheritune.corpus.building.manifest import (
    Drawn,
    describe,
    encoding_lines,
    few_documents,
    summary_line,
    write_removed,
)
from inheritune.corpus.building.selection import Candidates, available, training_pieces
from inheritune.corpus.building.tokenising import INDEX, TokeniseParts, TokenPart
from inheritune.corpus.building.validation import DOCUMENTS, Needed, choose_validation, most_withheld
from inheritune.corpus.building.work import Work, remove_left_over, work_folder
from inheritune.corpus.building.writing import Written, write_split
from inheritune.corpus.filters.base import CorpusFilter, check_filters, prepare_filters
from inheritune.corpus.sources.inputs import file_states, gather, list_inputs, state_of
from inheritune.data import (
    COUNTS,
    FORMAT,
    ChatTemplate,
    Encoder,
    Prepared,
    Shard,
    Tokens,
    check_new,
    fingerprint,
    has_result,
    open_prepared,
    open_same,
    separator,
    train_tokenizer,
)
from inheritune.errors import InputError, RunError
from inheritune.recipe import Data, NewTokenizer, check
from inheritune.redaction import confidential
from inheritune.runlog import (
    locked,
    logger,
    new_folder,
    package_versions,
    put_in_place,
    refuse_link,
    versions,
    write_json,
)
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THREADS = 4  # processors that a process keeps busy where threads of libraries and a disk do the work
_PACKAGES = ("datatrove", "datasets", "pyarrow", "chardet", "spacy")
_TASK_BYTES = 64_000_000  # of input: enough for a process, and little is lost when one is killed
_PART_BYTES = 16_000_000  # of candidates
_BLOCK = 2**24  # marks read at once
_TOKENIZER_BYTES = 200_000_000  # the least text that a new tokenizer is trained on, where there is so much
# A byte-level tokenizer makes at least one token of so many bytes of ordinary text. A new tokenizer is not trained on
# documents that may become validation, and these must be known before tokens can be counted.
_VALIDATION_BYTES_PER_TOKEN = 16
_TOKENIZER_MARGIN = 2  # more documents than needed: filters may remove some, and others become validation then


def prepare(
    data: Data | dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase | NewTokenizer",
    out: str | Path,
    *,
    seed: int = 1,
) -> Prepared:
    """Tokenise `data.sources` into the folder `out`: shards of training and validation, tokenizer/, manifest.json.

    Validation takes documents in the order of a hash of their text, until it has `data.validation` tokens. It takes
    only the beginnings of long ones, so that it has at least 20 documents, as far as the text allows. Training takes
    whole documents in an order drawn with the seed, until it has exactly `data.size` tokens; the last one is cut. A
    document that is in validation, whole or not, is never in training. Every document but the one that training cuts
    ends with the end-of-text token.

    The folder appears complete or not at all; the result of an earlier equal call is opened and verified. Until then
    the work is kept beside it, in .NAME.work, and the same call resumes it. Raises InputError for text that cannot be
    read, is empty or too little, and where `out` holds something else; RunError where the work fails.
    """
    out = Path(out)
    data = data if isinstance(data, Data) else check(Data, data, "data")
    remove_left_over(out)
    return Preparation(data, tokenizer, out, seed if data.seed is None else data.seed).run()


class Preparation:
    """One preparation: its inputs, its working folder, and the rounds in which documents are drawn.

    One round is usually enough. Another follows when the thresholds of the first admit too few tokens.
    """

    def __init__(self, data: Data, tokenizer: "PreTrainedTokenizerBase | NewTokenizer", out: Path, seed: int) -> None:
        if not has_result(out):
            check_new(out)
        check_executor(data)
        check_filters(data.filters)
        self.data, self.out, self.seed = data, out, seed
        self._tokenizer = tokenizer
        self._template: ChatTemplate | None = None
        if not isinstance(tokenizer, NewTokenizer):
            separator(tokenizer, "reference.tokenizer")  # raises before anything is read
        if data.has_conversations:
            if isinstance(tokenizer, NewTokenizer):
                what = "a new tokenizer has no chat template, and data.sources has conversations"
                raise InputError("reference.train.tokenizer", what, "name a model whose tokenizer has one")
            self._template = ChatTemplate(tokenizer, "reference.tokenizer", data.assistant_only_loss)
        self.work = Work(work_folder(out))
        self.inputs = list_inputs(data.sources)
        self.groups = gather(self.inputs, _TASK_BYTES)
        self._states = [[state_of(entry) for entry in group] for group in self.groups]

    def run(self) -> Prepared:
        """Do the rest of the work, and open the result."""
        began = time.monotonic()
        refuse_link(self.work.folder)  # its files are run, and removed
        if has_result(self.out):
            fixed = None if isinstance(self._tokenizer, NewTokenizer) else fingerprint(self._tokenizer)
            prepared = open_same(self.out, self._request(), fixed)
            logger.info(f"data: {self.out} is complete already; nothing to do")
            return prepared
        with locked(self.work.folder):
            check_new(self.out)  # another process may have been at work until now
            self.work.open(self._reading(), self._states)
            drawn = self._draw()
            check_enough(self.data, drawn.supply)
            self._write(drawn, began)
            self.work.clear()
        shutil.rmtree(self.work.folder, ignore_errors=True)  # its lock may be another process's by now
        return open_prepared(self.out)

    def _request(self) -> dict[str, Any]:
        """The keys of the manifest that identify a request."""
        new = self._tokenizer.model_dump() if isinstance(self._tokenizer, NewTokenizer) else None
        states = json.dumps(self._states, default=str).encode()
        return {
            "request": confidential({**self.data.model_dump(mode="json"), "seed": self.seed}),
            "new_tokenizer": new,
            "inputs": hashlib.sha256(states).hexdigest(),
        }

    def _reading(self) -> dict[str, Any]:
        """The settings that decide what is read, filtered and tokenised, before any document is drawn."""
        drawing = {"name", "weight", "limit"}
        reading: dict[str, Any] = {
            "sources": [source.model_dump(mode="json", exclude=drawing) for source in self.data.sources],
            "filters": [entry.model_dump(mode="json") for entry in self.data.filters if not entry.compares_all],
            "files": [file_states(entry) for entry in self.data.filters],
            "seed": self.seed,
            "format": FORMAT,
            "index": INDEX.descr,
        }
        if any(source.encoding == "auto" for source in self.data.sources):
            reading |= package_versions(("chardet",))  # which guesses
        if self._template is not None:
            reading["chat_template"] = self._template.digest
        if isinstance(self._tokenizer, NewTokenizer):  # trained on what is drawn
            drawn = self.data.model_dump(mode="json", include={"size", "validation", "sources"})
            return reading | {"tokenizer": self._tokenizer.model_dump(), "drawn": drawn}
        return reading | {"tokenizer": fingerprint(self._tokenizer), "encoder": Encoder(self._tokenizer).digest}

    def _draw(self) -> Drawn:
        """Read and tokenise until there is enough text, or no more."""
        text_bytes: Counter[int] = Counter()
        for entry in self.inputs:
            text_bytes[entry.source] += entry.text_bytes
        sizes = [text_bytes[n] if source.dataset is None else None for n, source in enumerate(self.data.sources)]
        least = _TOKENIZER_BYTES if isinstance(self._tokenizer, NewTokenizer) else 0
        thresholds: Thresholds | None = first_thresholds(self.data, sizes, least)
        while thresholds is not None:
            candidates, last_parts = self._candidates(thresholds)
            drawn = self._choose(candidates, last_parts, compare=False)
            higher = raised(self.data, thresholds, drawn.supply)
            if higher is None and any(entry.compares_all for entry in self.data.filters):
                # Not earlier: more documents would need another comparison.
                drawn = self._choose(candidates, last_parts, compare=True)
                higher = raised(self.data, thresholds, drawn.supply)
            thresholds = higher
        return drawn

    def _candidates(self, thresholds: Thresholds) -> tuple[Candidates, list[Part]]:
        """Read and tokenise what the thresholds admit; also returns the parts of the last round."""
        rounds = self.work.thresholds
        if not rounds or not rounds[-1].covers(thresholds):
            if rounds:
                logger.info("data: more documents are needed, reading again")
            self.work.add_thresholds(rounds[-1].joined(thresholds) if rounds else thresholds)
        parts: list[TokenPart] = []
        collected: list[Part] = []
        before = None
        for number, now in enumerate(self.work.thresholds):
            collected = self._collect(number, now, before)
            parts, before = parts + self._tokenise(number, collected), now
        return Candidates(parts, thresholds), collected

    def _compared(self, candidates: Candidates, taken: set[bytes]) -> Candidates:
        """The candidates, marked where a filter that compares all documents removes one."""
        for number, entry in enumerate(self.data.filters, start=1):
            if isinstance(entry, CorpusFilter):
                marks = entry.marks(number, candidates, taken, self.work.folder, self._stages)
                candidates = candidates.marked(marks)
        return candidates

    def _choose(self, candidates: Candidates, last_parts: list[Part], compare: bool) -> Drawn:
        """Validation's documents and the supply of other text; with `compare`, all filters are applied."""
        # Validation's candidates are compared with each other only: nothing else changes validation.
        alone = self._compared(candidates.of_validation(), set()) if compare else candidates
        characters, asked = total(last_parts, "characters"), self.work.thresholds[-1]
        open_streams = [
            characters[str(number)] >= candidates.thresholds.validation[number].characters
            for number, source in enumerate(self.data.sources)
            if source.dataset is not None
        ]  # by validation's own thresholds, as it must not depend on how much training takes
        most = None if any(open_streams) else most_withheld(characters.total())
        chosen = choose_validation(alone, self.data.validation.count, most, self.data.has_conversations)
        candidates = self._compared(candidates, chosen.taken) if compare else candidates
        stock = available(candidates, chosen.taken, len(self.data.sources))
        ends = [
            there if (there := characters[str(number)]) < asked.characters(number) else None
            for number in range(len(self.data.sources))
        ]
        tokens = sum(piece.tokens for piece in chosen.pieces)
        return Drawn(candidates, chosen, Supply(tokens, chosen.counted, tuple(stock), tuple(ends)), last_parts)

    @cached_property
    def _stages(self) -> Stages:
        return Stages(self.data, self.work.folder / "tasks")

    def _collect(self, number: int, thresholds: Thresholds, before: Thresholds | None) -> list[Part]:
        work, folder = self.work.folder, self.work.folder / f"collected-{number}"
        filters = prepare_filters(self.data.filters, work)
        step = Collect(
            self.groups, self.data.sources, thresholds, before, self.seed, filters, work, folder, _PART_BYTES,
            self._template,
        )  # fmt: skip
        threads = 1 if self.data.filters else _THREADS
        self._stages.run(f"collect-{number}", [step], len(self.groups), threads, f"reading {len(self.inputs):,} inputs")
        flat = itertools.chain.from_iterable
        for entry, state in zip(flat(self.groups), flat(self._states), strict=True):
            if state_of(entry) != state:  # the next run reads it again
                remedy = "run the same command again when nothing writes to it any more"
                raise RunError(entry.address, "was changed while it was read", remedy)
        collected = parts(folder)
        documents = total(collected, "documents")
        for source_number, source in enumerate(self.data.sources):
            if not documents[str(source_number)]:
                raise InputError(
                    f"data.sources: {source.title}", "no text: every file is empty", "give files with text"
                )
        return collected

    def _tokenise(self, number: int, collected: list[Part]) -> list[TokenPart]:
        encoder, eos = Encoder(self.tokenizer), separator(self.tokenizer, "reference.tokenizer")
        tokenised = [TokenPart(part, self.work.folder / f"tokens-{number}") for part in collected]
        step = TokeniseParts(tokenised, encoder, self.dtype, eos, self._template)
        self._stages.run(f"tokenise-{number}", [step], len(tokenised), _THREADS, "tokenising")
        return tokenised

    @cached_property
    def dtype(self) -> "np.dtype[Any]":
        """The type of the shards' tokens: the smaller one that holds every id."""
        return np.dtype("<u2" if vocabulary_size(self.tokenizer) <= 2**16 else "<u4")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the request; a new one is trained on the text of the first round."""
        if not isinstance(self._tokenizer, NewTokenizer):
            return self._tokenizer
        from transformers import AutoTokenizer

        place = self.work.folder / "tokenizer"
        if not place.exists():
            logger.info(f"data: training a tokenizer of {self._tokenizer.vocabulary} entries")
            texts = _tokenizer_texts(self.data, parts(self.work.folder / "collected-0"))
            with new_folder(place) as partial:
                train_tokenizer(texts, self._tokenizer.vocabulary).save_pretrained(partial)
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
        return loaded

    def _write(self, drawn: Drawn, began: float) -> None:
        logger.info("data: writing")
        free = {"executor", "workers", "slurm", "prefix"}  # settings that do not change the shards
        # The key of the first version, whose shards are kept too.
        result = self.work.result(
            self.data.model_dump(mode="json", exclude=free) | {"gate": asdict(drawn.candidates.thresholds)}
        )
        end = separator(self.tokenizer, "reference.tokenizer")
        splits = self._written(drawn, result, ".bin", None if self._template is not None else end)
        marks: dict[str, Any] = {}
        if self._template is not None:
            marks = {"marks": _shards(self._written(drawn, result, ".marks", None))}
            marks["targets"] = {split: _targets(result, shards) for split, shards in marks["marks"].items()}
        self.tokenizer.save_pretrained(result / "tokenizer")
        manifest = {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "tokens": {split: written.tokens for split, written in splits.items()},
            "shards": _shards(splits),
            **marks,
            "largest_token": max(written.largest for written in splits.values()),
            "end_of_text": end,
            "tokenizer": fingerprint(self.tokenizer),
            "prefix": self.data.prefix,
            **self._request(),
            "versions": versions() | package_versions(_PACKAGES),
            **describe(self.data, drawn, splits),
            "seconds": round(time.monotonic() - began, 3),
        }
        write_removed(self.data, drawn, result / "removed")
        write_json(result / "manifest.json", manifest)
        put_in_place(result, self.out)
        for line in encoding_lines(manifest["sources"]):
            logger.info(line)
        logger.info(summary_line(manifest))
        if warning := few_documents(manifest):
            logger.warning(warning)

    def _written(self, drawn: Drawn, folder: Path, suffix: str, last: int | None) -> dict[str, Written]:
        """Write the tokens (.bin) or marks (.marks) of both splits; `last` ends each document of validation."""
        dtype = self.dtype if suffix == ".bin" else np.dtype("u1")
        files = [part.tokens.with_suffix(suffix) for part in drawn.candidates.parts]
        row = Tokens([Shard(file, file.stat().st_size // dtype.itemsize, "") for file in files], dtype.name)
        training = training_pieces(self.data, drawn.candidates, drawn.validation.taken)
        return {
            split: write_split(pieces, row, folder, split, self._note(split, suffix), last=end, suffix=suffix)
            for split, pieces, end in (("train", training, None), ("validation", drawn.validation.pieces, last))
        }

    def _note(self, split: str, suffix: str) -> Path:
        return self.work.folder / f"written-{split}{'' if suffix == '.bin' else suffix}.json"


def _shards(splits: dict[str, Written]) -> dict[str, list[dict[str, Any]]]:
    return {split: written.shards for split, written in splits.items()}


def _targets(folder: Path, shards: list[dict[str, Any]]) -> int:
    """How many tokens are targets, by their marks."""
    row = Tokens([Shard(folder / one["file"], one["tokens"], one["sha256"]) for one in shards], "uint8")
    blocks = (row.read(at, min(_BLOCK, len(row) - at)) for at in range(0, len(row), _BLOCK))
    return sum(int(np.count_nonzero(block & COUNTS)) for block in blocks)


def _tokenizer_texts(data: Data, collected: list[Part]) -> Iterator[str]:
    """Texts to train a tokenizer on, each once, without those that may become validation (at most half of all)."""

    def kept() -> Iterator[dict[str, Any]]:
        return (record for part in collected for record in records(part.path) if not record["removed"])

    keys, sizes = array("Q"), array("I")  # there may be very many
    for record in kept():
        keys.append(record["keys"][0])
        sizes.append(len(record["text"].encode()))
    all_keys = np.array(keys, np.uint64)
    order = np.argsort(all_keys, kind="stable")
    streams = any(source.dataset is not None for source in data.sources)
    unit = _VALIDATION_BYTES_PER_TOKEN
    most = None if streams else most_withheld(total(collected, "characters").total()) * unit
    needed = Needed(data.validation.count * unit, most, _TOKENIZER_MARGIN * DOCUMENTS)
    taken = itertools.takewhile(lambda place: needed.takes(keys[place], sizes[place]), order)
    count = min(sum(1 for _ in taken), len(keys) // 2)
    last = keys[int(order[count - 1])] if count else -1
    first = np.zeros(len(keys), bool)
    first[np.unique(all_keys, return_index=True)[1]] = True
    for place, record in enumerate(kept()):
        if first[place] and keys[place] > last:
            yield record["text"]
