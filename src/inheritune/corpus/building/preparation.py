"""From text to token shards, in stages that are each done once: collect, tokenise, select, write."""

import hashlib
import json
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.corpus.building.manifest import Drawn, account, counted, encoding_lines, write_removed
from inheritune.corpus.building.states import file_states, state_of, text_bytes
from inheritune.corpus.building.work import Work, remove_left_over, work_folder
from inheritune.corpus.filters.filtering import check_filters
from inheritune.data.prepared import FORMAT, Prepared, has_result, open_prepared, open_same
from inheritune.data.tokenizer import Encoder, fingerprint, separator, train_tokenizer
from inheritune.errors import InputError, RunError
from inheritune.recipe import CorpusFilter, Data, NewTokenizer, check
from inheritune.redaction import confidential
from inheritune.runlog import locked, package_versions, put_in_place, refuse_link, versions, write_json
from inheritune.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from inheritune.corpus.building.collection import Part
    from inheritune.corpus.building.drawing import Gate
    from inheritune.corpus.building.selection import Candidates
    from inheritune.corpus.building.tokenising import TokenPart
    from inheritune.corpus.building.writing import Written
    from inheritune.corpus.filters.filtering import DocumentFilter

Say = Callable[[str], None]
# What a process keeps busy where the work is done by threads of libraries, and by a disk: fewer cores than these need
# no further process, and starting one takes seconds.
_THREADS = 4
_PACKAGES = ("datatrove", "datasets", "pyarrow", "chardet", "spacy")
_TASK_BYTES = 64_000_000  # of input: worth a process, and not much is lost with one
_PART_BYTES = 16_000_000  # of candidates
_TOKENIZER_BYTES = 200_000_000  # of text, from which a new tokenizer is learnt at least where there is so much
# A byte-level tokenizer makes at least one token of so many bytes of ordinary text; by this the documents that may
# become validation are kept from a new tokenizer, which must exist before tokens can be counted.
_VALIDATION_BYTES_PER_TOKEN = 16


def prepare(
    data: Data | dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase | NewTokenizer",
    out: str | Path,
    *,
    seed: int = 1,
    say: Say = lambda line: None,
) -> Prepared:
    """Tokenise `data.sources` into the folder `out`: shards of training and validation, tokenizer/, manifest.json.

    Validation takes whole documents in the order of a hash of their text, until `data.validation` tokens are reached;
    training takes whole documents in an order drawn with the seed, until exactly `data.size` tokens, the last one cut.
    A document whose text is in validation is never in training. Every document that is not cut ends with the
    end-of-text token.

    The folder appears whole or not at all; one that the same request has filled is opened and verified. What is done
    is kept beside it, in .NAME.work, until then: the same call goes on from there. Raises InputError for text that
    cannot be read, is empty or too little, and where `out` holds something else; RunError for what fails on the way.
    """
    out = Path(out)
    data = data if isinstance(data, Data) else check(Data, data, "data")
    seed = seed if data.seed is None else data.seed
    remove_left_over(out)
    return Preparation(data, tokenizer, out, seed, say).run()


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(str(out), "exists already", "give another folder, or remove it")


class Preparation:
    """One preparation: its inputs, its working folder, and the rounds in which documents are drawn.

    One round is the rule. Another follows when the gate of the one before let too few tokens through.
    """

    def __init__(
        self, data: Data, tokenizer: "PreTrainedTokenizerBase | NewTokenizer", out: Path, seed: int, say: Say
    ) -> None:
        from inheritune.corpus.building.execution import check_executor
        from inheritune.corpus.sources.inputs import gather, list_inputs

        if not has_result(out):
            _check_out(out)
        check_executor(data)
        check_filters(data.filters)
        self.data, self.out, self.seed, self.say = data, out, seed, say
        self._tokenizer = tokenizer
        if not isinstance(tokenizer, NewTokenizer):
            separator(tokenizer, "reference.tokenizer")  # refused before anything is read
        self.work = Work(work_folder(out), say)
        self._last: list[Part] = []
        self.inputs = list_inputs(data.sources)
        self.groups = gather(self.inputs, _TASK_BYTES)

    def run(self) -> Prepared:
        """Do what is left to do, and open the result."""
        from inheritune.corpus.building.drawing import check_enough, wider

        began = time.monotonic()
        refuse_link(self.work.folder)  # what is in it is run, and removed
        self._states = [[state_of(entry) for entry in group] for group in self.groups]
        if has_result(self.out):
            return self._finished_before()
        with locked(self.work.folder):
            _check_out(self.out)  # another process may have been at work until now
            self.work.open(self._reading(), self._states)
            gate = self._first_gate()
            while True:
                candidates, read = self._candidates(gate)
                drawn = self._drawn(candidates, candidates, read)
                wide = wider(self.data, gate, drawn.supply)
                if wide is None and any(isinstance(entry, CorpusFilter) for entry in self.data.filters):
                    # not earlier: with more documents the comparison is another one, and done again
                    drawn = self._drawn_without_duplicates(candidates, read)
                    wide = wider(self.data, gate, drawn.supply)
                if wide is None:
                    break
                gate = wide
            check_enough(self.data, drawn.supply)
            self._write(drawn, began)
            self.work.clear()
        shutil.rmtree(self.work.folder, ignore_errors=True)  # its lock may be another process's by now
        return open_prepared(self.out)

    def _finished_before(self) -> Prepared:
        """What is in `out`, if this request has made it: a kill may come when all is done. Raises InputError else."""
        tokenizer = None if isinstance(self._tokenizer, NewTokenizer) else fingerprint(self._tokenizer)
        found = open_same(self.out, self._request(), tokenizer)
        self.say(f"data: {self.out} was finished before; nothing is left to do")
        return found

    def _request(self) -> dict[str, Any]:
        """The keys of the manifest that say what was asked for."""
        new = self._tokenizer.model_dump() if isinstance(self._tokenizer, NewTokenizer) else None
        states = json.dumps(self._states, default=str).encode()
        return {
            "request": confidential({**self.data.model_dump(mode="json"), "seed": self.seed}),
            "new_tokenizer": new,
            "inputs": hashlib.sha256(states).hexdigest(),
        }

    def _candidates(self, gate: "Gate") -> "tuple[Candidates, list[Part]]":
        """What the gate admits, read and tokenised as far as that has not been done; and all parts."""
        from inheritune.corpus.building.selection import Candidates

        gates = self.work.gates
        if not gates or not gates[-1].covers(gate):
            if gates:
                self.say("data: more documents are needed, reading again")
            self.work.add_gate(gates[-1].joined(gate) if gates else gate)
        read: list[Part] = []
        tokens: list[TokenPart] = []
        before = None
        for number, now in enumerate(self.work.gates):
            self._last = self._collect(number, (before, now))
            read, tokens, before = read + self._last, tokens + self._tokenise(number, self._last), now
        return Candidates(tokens, gate), read

    def _drawn_without_duplicates(self, candidates: "Candidates", read: "list[Part]") -> "Drawn":
        """As `_drawn`. What is open to validation is compared on its own, so that nothing else changes validation."""
        from inheritune.corpus.building.deduplication import without_duplicates
        from inheritune.corpus.building.selection import choose_validation

        def kept(some: "Candidates", taken: set[bytes]) -> "Candidates":
            return without_duplicates(self.data.filters, read, some, taken, self.work.folder, self._stages)

        alone = kept(candidates.of_validation(), set())
        _, taken = choose_validation(alone, self.data.validation.count)
        return self._drawn(alone, kept(candidates, taken), read)

    def _drawn(self, alone: "Candidates", candidates: "Candidates", read: "list[Part]") -> "Drawn":
        """What there is to draw from, and validation's documents, chosen from `alone`."""
        from inheritune.corpus.building.drawing import Supply
        from inheritune.corpus.building.selection import available, choose_validation

        pieces, taken = choose_validation(alone, self.data.validation.count)
        stock = available(candidates, taken, len(self.data.sources))
        supply = Supply(sum(piece.tokens for piece in pieces), tuple(stock), self._ends())
        return Drawn(candidates, pieces, taken, supply, read, self._last)

    @cached_property
    def _stages(self) -> Any:
        from inheritune.corpus.building.execution import Stages

        return Stages(self.data, self.work.folder / "tasks", self.say)

    def _reading(self) -> dict[str, Any]:
        """The settings on which it depends what is read, and what becomes of it before any is drawn."""
        drawing = {"name", "weight", "limit"}
        found: dict[str, Any] = {
            "sources": [source.model_dump(mode="json", exclude=drawing) for source in self.data.sources],
            "filters": [
                entry.model_dump(mode="json") for entry in self.data.filters if not isinstance(entry, CorpusFilter)
            ],
            "files": [file_states(entry) for entry in self.data.filters],
            "seed": self.seed,
            "format": FORMAT,
        }
        if any(source.encoding == "auto" for source in self.data.sources):
            found |= package_versions(("chardet",))  # which guesses
        if isinstance(self._tokenizer, NewTokenizer):  # learnt from what is drawn
            drawn = self.data.model_dump(mode="json", include={"size", "validation", "sources"})
            return found | {"tokenizer": self._tokenizer.model_dump(), "drawn": drawn}
        return found | {"tokenizer": fingerprint(self._tokenizer), "encoder": Encoder(self._tokenizer).digest}

    def _first_gate(self) -> "Gate":
        from inheritune.corpus.building.drawing import Extent, first_gate

        extents = []
        for number in range(len(self.data.sources)):
            mine = [entry for entry in self.inputs if entry.source == number]
            stream = self.data.sources[number].dataset is not None
            extents.append(Extent(None if stream else sum(text_bytes(entry) for entry in mine)))
        return first_gate(self.data, extents, _TOKENIZER_BYTES if isinstance(self._tokenizer, NewTokenizer) else 0)

    def _collect(self, number: int, gates: "tuple[Gate | None, Gate]") -> "list[Part]":
        from inheritune.corpus.building.collection import JudgeDocuments, ReadSources, Tally, WriteParts, parts

        folder, tally = self.work.folder / f"collected-{number}", Tally()
        steps = [
            ReadSources(self.groups, self.data.sources, gates, self.seed, tally, folder),
            JudgeDocuments(self._judges(), tally),
            WriteParts(folder, tally, _PART_BYTES, [len(group) for group in self.groups]),
        ]
        threads = 1 if self.data.filters else _THREADS
        about = f"reading {len(self.inputs):,} inputs"
        self._stages.run(f"collect-{number}", steps, len(self.groups), threads, about)
        self._check_unchanged()
        found = parts(folder)
        self._check_sources(found)
        return found

    def _check_unchanged(self) -> None:
        """Raise RunError for a file that was written to while it was read; it is read again by the next run."""
        for group, before in zip(self.groups, self._states, strict=True):
            for entry, state in zip(group, before, strict=True):
                if state_of(entry) != state:
                    raise RunError(
                        entry.address,
                        "was changed while it was read",
                        "run the same command again when nothing writes to it any more",
                    )

    def _judges(self) -> "list[tuple[int, DocumentFilter]]":
        """The filters that look at a document alone, with their numbers in the recipe's list, from 1."""
        from inheritune.corpus.filters.filtering import build_filters

        numbers = [n for n, entry in enumerate(self.data.filters, start=1) if not isinstance(entry, CorpusFilter)]
        return list(zip(numbers, build_filters(self.data.filters, self.work.folder), strict=True))

    def _check_sources(self, found: "list[Part]") -> None:
        """Raise InputError for a source in which there is nothing at all."""
        documents = counted(found, "documents")
        for number, source in enumerate(self.data.sources):
            if not documents[str(number)]:
                raise InputError(
                    f"data.sources: {source.title}", "no text: every file is empty", "give files with text"
                )

    def _tokenise(self, number: int, found: "list[Part]") -> "list[TokenPart]":
        from inheritune.corpus.building.tokenising import TokeniseParts, TokenPart

        encoder, eos = Encoder(self.tokenizer), separator(self.tokenizer, "reference.tokenizer")
        folder = self.work.folder / f"tokens-{number}"
        paths = [part.path for part in found]
        step = TokeniseParts(paths, encoder, folder, self.dtype, eos)
        self._stages.run(f"tokenise-{number}", [step], len(paths), _THREADS, "tokenising")
        return [TokenPart.of(folder, path) for path in paths]

    @cached_property
    def dtype(self) -> "np.dtype[Any]":
        """Of the shards: the smaller one that holds every id."""
        return np.dtype("<u2" if vocabulary_size(self.tokenizer) <= 2**16 else "<u4")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The one that was given, or a new one, learnt from what was collected first."""
        if not isinstance(self._tokenizer, NewTokenizer):
            return self._tokenizer
        from transformers import AutoTokenizer

        from inheritune.corpus.building.collection import parts

        place = self.work.folder / "tokenizer"
        if not place.exists():
            self.say(f"data: training a tokenizer of {self._tokenizer.vocabulary} entries")
            texts = _tokenizer_texts(parts(self.work.folder / "collected-0"), self.data.validation.count)
            made = train_tokenizer(texts, self._tokenizer.vocabulary)
            partial = place.with_name(".tokenizer.partial")
            refuse_link(partial)
            made.save_pretrained(partial)
            put_in_place(partial, place)
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
        return loaded

    def _ends(self) -> tuple[int | None, ...]:
        """The characters of each stream that had fewer than were asked of it."""
        characters, gate = counted(self._last, "characters"), self.work.gates[-1]
        found: list[int | None] = []
        for number in range(len(self.data.sources)):
            asked = max(gate.validation[number].characters, gate.training[number].characters)
            there = characters[str(number)]
            found.append(there if there < asked else None)
        return tuple(found)

    def _write(self, drawn: "Drawn", began: float) -> None:
        from inheritune.corpus.building.selection import training_pieces
        from inheritune.corpus.building.writing import write_split
        from inheritune.data.shards import Shard, Tokens

        self.say("data: writing")
        result = self.work.result(
            self.data.model_dump(mode="json", exclude={"executor", "workers", "slurm", "prefix"})
            | {"gate": asdict(drawn.candidates.gate)}
        )
        files = [part.tokens for part in drawn.candidates.parts]
        rows = Tokens([Shard(file, file.stat().st_size // self.dtype.itemsize, "") for file in files], self.dtype.name)
        training = training_pieces(self.data, drawn.candidates, drawn.taken)
        splits = {
            "train": write_split(training, rows, result, "train", self.work.folder / "written-train.json"),
            "validation": write_split(
                drawn.validation, rows, result, "validation", self.work.folder / "written-validation.json"
            ),
        }
        self.tokenizer.save_pretrained(result / "tokenizer")
        manifest = {
            **self._facts(splits),
            **account(self.data, drawn, splits),
            "seconds": round(time.monotonic() - began, 3),
        }
        write_removed(self.data, drawn, result / "removed")
        write_json(result / "manifest.json", manifest)
        put_in_place(result, self.out)
        for line in encoding_lines(manifest["sources"]):
            self.say(line)
        self.say(f"data: {splits['train'].tokens:,} training tokens, {splits['validation'].tokens:,} validation tokens")

    def _facts(self, splits: "dict[str, Written]") -> dict[str, Any]:
        """What is needed to open the result."""
        return {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "tokens": {split: written.tokens for split, written in splits.items()},
            "shards": {split: written.shards for split, written in splits.items()},
            "largest_token": max(written.largest for written in splits.values()),
            "end_of_text": separator(self.tokenizer, "reference.tokenizer"),
            "tokenizer": fingerprint(self.tokenizer),
            "prefix": self.data.prefix,
            **self._request(),
            "versions": versions() | package_versions(_PACKAGES),
        }


def _tokenizer_texts(found: "list[Part]", validation_tokens: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: all but the first half at most, which may become validation, each text once."""
    from inheritune.corpus.building.collection import records

    keys, sizes = array("Q"), array("I")  # there may be very many
    for part in found:
        for record in records(part):
            if not record["removed"]:
                keys.append(record["keys"][0])
                sizes.append(len(record["text"].encode()))
    order = np.argsort(np.array(keys, np.uint64), kind="stable")
    held = np.cumsum(np.array(sizes, np.int64)[order])
    count = min(int(np.searchsorted(held, validation_tokens * _VALIDATION_BYTES_PER_TOKEN)) + 1, len(keys) // 2)
    last = keys[int(order[count - 1])] if count else -1
    first = np.zeros(len(keys), bool)
    first[np.unique(np.array(keys, np.uint64), return_index=True)[1]] = True
    place = 0
    for part in found:
        for record in records(part):
            if not record["removed"]:
                if first[place] and keys[place] > last:
                    yield record["text"]
                place += 1
