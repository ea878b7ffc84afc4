"""`evaluate`: models on the same text and the same tasks, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import check_positions, layer_count, load_config, parameter_count, ready, title
from inheritune.data import Prepared, Sequences, check_vocabulary, documents, fingerprint, open_data
from inheritune.errors import InputError
from inheritune.evaluation.groups import HARNESS, Entry, Figures, check_published, has_pinned, published, with_averages
from inheritune.evaluation.judging import scoring
from inheritune.evaluation.reading import (
    Reading,
    Score,
    predicted_texts,
    read_text,
    read_tokens,
    score,
    score_figures,
    tokenizer_of,
)
from inheritune.evaluation.run_folder import RunFolder, open_run
from inheritune.evaluation.tasks import Task, check_names, judge_task, on_harness, open_tasks
from inheritune.harness import version
from inheritune.inheritance import check_free
from inheritune.recipe import Reference
from inheritune.runlog import new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
_LONGEST = 1024  # tokens of a sequence, where nothing says how many


def evaluate(
    models: "str | Path | Reference | PreTrainedModel | Sequence[str | Path | Reference | PreTrainedModel]",
    data: str | Path | None = None, sequence_length: int | None = None, *, text: str | Path | Sequence[str | Path] = (),
    tasks: str | Sequence[str] = (), tasks_folder: str | Path | None = None, trust_task_files: bool = False,
    compare_published: bool = False, limit: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto", dtype: str = "auto",
    attention: str | None = None, micro_batch: int = 8, out: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:  # fmt: skip
    """Validation loss, perplexity, bits per byte and tasks of one or several decoders, as plain data.

    docs/evaluating.md has every key. The text is all of `text` (files, folders, patterns, addresses), or the
    validation text of `data` (a folder that `prepare` wrote, or nanoGPT's train.bin and val.bin), in sequences of
    `sequence_length` tokens (default: 1024, or as many as all models have positions for). A model may be a run's
    folder: then it stands for the run's reference and its result, judged as in the run where neither text nor data is
    given. `tasks` are names of lm-evaluation-harness, of the groups inheritune-v1 and inheritune-v4, `NAME@5` for five
    shots, and task files, of which `tasks_folder` may hold several; these need `trust_task_files`. `limit`: questions
    of each task. `compare_published` adds the papers' rows. `attention` is as in a recipe's `train`. Models are moved
    to `device` in `dtype` (auto: float32, on a GPU bfloat16); a loaded one stays as it was. `out` is a folder to write
    evaluation.json to.

    Raises InputError for text that is too short, unknown tasks, data of tasks that cannot be had, sequences longer than
    a model's positions, a model without tokenizer, and when `out` exists.
    """
    paths, names = _as_list(text), [str(name) for name in _as_list(tasks)]
    given, runs = _listed(_as_list(models))
    wish = _Wish(data, paths, sequence_length, attention, micro_batch, limit).of_runs(runs)
    wish.check(bool(names))
    folder = None if out is None else check_free(Path(out))
    own = None if tasks_folder is None else Path(tasks_folder)
    runtime = rt.start(device)
    entries: tuple[Entry, ...] = ()
    if names or own is not None:
        entries = runtime.first_does(lambda: _check(names, own, trust_task_files))
    if compare_published:
        check_published(entries, "--published")
    wish = wish.settled([one for _, one in given])
    # only the first process asks questions; the others wait for its figures
    opened: list[Task] = []
    runtime.first_does(lambda: opened.extend(open_tasks(entries, "--tasks", own)))
    judge = _Judge(wish, runtime, entries, opened, say)
    shown = []
    for name, one in given:
        say(f"{name}: loading")
        with ready(one, tokenizer, runtime.device, dtype) as (model, its):
            shown.append({"name": name, "path": title(one)[1], **judge.figures(name, model, its)})
    found: Figures = {
        "format": FORMAT,
        "text": judge.text(),
        "harness": harness_facts(names, limit) if entries else None,
        "models": shown,
        "published": published(shown[0]["tasks"], "--published") if compare_published else [],
    }
    if folder is not None and runtime.is_first:
        with new_folder(folder) as filled:
            write_json(filled / "evaluation.json", found)
    return found


def harness_facts(names: Sequence[str], limit: int | None) -> Figures:
    """What the figures of tasks depend on besides the model; `pinned`: the version that groups of ours are made for."""
    return {"version": version(), "limit": limit, "pinned": HARNESS if has_pinned(names) else None}


def _check(names: Sequence[str], folder: Path | None, trusted: bool) -> tuple[Entry, ...]:
    if not names:
        raise InputError("--tasks-folder", "no task of it is asked for", "name some with --tasks")
    return check_names(names, "--tasks", folder=folder, trusted=trusted)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _listed(models: Sequence[Any]) -> tuple[list[tuple[str, Any]], list[RunFolder]]:
    """Each model with a name of its own, those of runs in the place of the run's folder; and the runs."""
    if not models:
        raise InputError("models", "none given", "name one or several")
    found: list[tuple[str, Any]] = []
    runs: list[RunFolder] = []
    for one in models:
        run = open_run(Path(one)) if isinstance(one, str | Path) else None
        if run is not None:
            runs.append(run)
            found += [(f"{run.name} reference", run.reference), (f"{run.name} result", run.result)]
        else:
            found.append((title(one)[0], one))
    names = [name for name, _ in found]
    found = [(title(one)[1] or name if names.count(name) > 1 else name, one) for name, one in found]
    names = [name for name, _ in found]
    told = [(f"{name} ({at})" if names.count(name) > 1 else name, one) for at, (name, one) in enumerate(found, 1)]
    return told, runs


@dataclass(frozen=True)
class _Wish:
    """On what models are judged."""

    data: str | Path | None
    paths: Sequence[str | Path]
    length: int | None
    attention: str | None
    micro_batch: int
    limit: int | None

    def of_runs(self, runs: Sequence[RunFolder]) -> "_Wish":
        """Where no text is given: the validation text of the one run among the models, as the run reads it."""
        if self.data is not None or self.paths or not runs:
            return self
        if len({run.data for run in runs}) > 1:
            raise InputError("models", "two runs, and each has a text of its own", "give --text or --data")
        run = runs[0]
        return replace(
            self, data=run.data, length=self.length or run.sequence_length, attention=self.attention or run.attention
        )

    def check(self, has_tasks: bool) -> None:
        if self.paths and self.data is not None:
            raise InputError("text", "both text and data", "give --text or --data, one of the two")
        if not (self.paths or self.data is not None or has_tasks):
            raise InputError("command line", "nothing to judge on", "give --text, --data or --tasks")
        if self.attention not in (None, "sequence", "document"):
            raise InputError("attention", f"got {self.attention!r}", "give 'sequence' or 'document'")
        for place, value in (
            ("--sequence-length", self.length),
            ("--micro-batch", self.micro_batch),
            ("--limit", self.limit),
        ):
            if value is not None and value < 1:
                raise InputError(place, f"got {value}", "give 1 or more")

    def settled(self, models: Sequence[Any]) -> "_Wish":
        """With a length that all models have positions for. Raises InputError where one has not, or is no model."""
        configs = [_config(one) for one in models]
        if self.length is not None:
            for config in configs:
                check_positions(config, self.length, "--sequence-length")
            return self
        positions = [getattr(config, "max_position_embeddings", None) for config in configs]
        return replace(self, length=min([_LONGEST, *(one for one in positions if isinstance(one, int) and one > 0)]))


def _config(one: Any) -> Any:
    if isinstance(one, str | Path):
        one = Reference(path=str(one))
    return load_config(one) if isinstance(one, Reference) else one.config


class _Judge:
    """Judges one model after the other, and remembers what is common to them."""

    def __init__(
        self, wish: _Wish, runtime: rt.Runtime, entries: Sequence[Entry], opened: Sequence[Task],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.wish, self.runtime, self.entries, self.opened, self.say = wish, runtime, entries, opened, say
        self._texts: list[str] | None = None
        self._prepared: Prepared | None = None
        self._seen: list[tuple[int, int, int]] = []  # sequences, tokens, bytes of each model

    def figures(self, name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Figures:
        """The keys of a model in evaluation.json but name and path."""
        found: Figures = {"parameters": parameter_count(model), "layers": layer_count(model.config)}
        if self.wish.paths or self.wish.data is not None:
            reading = self._reading(model, tokenizer)
            self.say(
                f"{name}: {reading.sequences.count:,} sequences of {self.wish.length} tokens, {reading.bytes:,} bytes"
            )
            judged = self._score(model, reading)
            self._seen.append((reading.sequences.count, judged.tokens, reading.bytes))
            if reading.unknown:
                self.say(
                    f"{name}: its tokenizer cannot spell {reading.unknown:,} of {judged.tokens:,} tokens of this text,"
                    " so its bits per byte are too low"
                )
            found |= score_figures(judged)
        tasks: dict[str, Figures] = {}
        if self.entries:
            tasks = self.runtime.first_does(lambda: self._tasks(name, model, tokenizer))
        return {**found, "tasks": tasks}

    def text(self) -> Figures | None:
        """What was read: sequences and tokens are None where models have another number of them."""
        if not self._seen:
            return None
        same = [one[0] if len(set(one)) == 1 else None for one in zip(*self._seen, strict=True)]
        wish = self.wish
        source = ", ".join(str(path) for path in wish.paths) if wish.paths else f"{wish.data} (validation)"
        return {
            "source": source, "sequences": same[0], "sequence_length": wish.length, "tokens": same[1],
            "bytes": same[2] or None,
        }  # fmt: skip

    def _score(self, model: "PreTrainedModel", reading: Reading) -> Score:
        end = reading.end_of_text if self.wish.attention == "document" else None
        with scoring(model, self.runtime, precision="float32", parallel="ddp", end_of_text=end) as losses_of:
            return score(reading, losses_of, self.runtime, self.wish.micro_batch)

    def _reading(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Reading:
        wish, length = self.wish, self.wish.length
        assert length is not None
        if wish.paths:
            if tokenizer is None:
                raise InputError(
                    "tokenizer", "a loaded model comes without one", "give the tokenizer, or prepared data"
                )
            if self._texts is None:
                self._texts = list(documents(wish.paths))
            return read_text(self._texts, tokenizer, length, ", ".join(str(path) for path in wish.paths))
        return self._of_data(model, tokenizer, length)

    def _of_data(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", length: int) -> Reading:
        """Of prepared data: the tokens as they are where this model's tokenizer made them, else their text."""
        if self._prepared is None:
            assert self.wish.data is not None
            self._prepared = open_data(self.wish.data, self.runtime, model.config.vocab_size, tokenizer)
        prepared = self._prepared
        if tokenizer is None or fingerprint(tokenizer) == prepared.manifest["tokenizer"]:
            check_vocabulary(prepared, model.config.vocab_size, str(self.wish.data))
            return read_tokens(self._sequences(), tokenizer or tokenizer_of(prepared))
        if self._texts is None:
            made_by = tokenizer_of(prepared)
            if made_by is None:
                what = "token files of one tokenizer, and a model with another one is to be judged on them"
                raise InputError(str(self.wish.data), what, "give the text itself, with --text")
            self._texts = predicted_texts(self._sequences(), made_by)
        return read_text(self._texts, tokenizer, length, str(self.wish.data))

    def _sequences(self) -> Sequences:
        assert self._prepared is not None
        assert self.wish.length is not None
        return Sequences(self._prepared.tokens("validation"), self.wish.length, "data.validation")

    def _tasks(self, name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Figures:
        if tokenizer is None:
            raise InputError("tokenizer", "a loaded model comes without one", "give the tokenizer")
        lm = on_harness(model, tokenizer, self.wish.micro_batch)
        found: dict[str, Figures] = {}
        for number, task in enumerate(self.opened, 1):
            self.say(f"{name}: {task.entry.name} ({number} of {len(self.opened)} tasks)")
            found |= judge_task(task, lm, self.wish.limit)
        return with_averages(found)
