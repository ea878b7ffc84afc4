"""What models are evaluated on, and the figures of one model after the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import (
    check_positions,
    check_tokenizer_fits,
    layer_count,
    load_config,
    parameter_count,
    position_count,
)
from inheritune.corpus import contents
from inheritune.data import (
    CannotRender,
    ChatTemplate,
    Conversation,
    Packing,
    Prepared,
    Sequences,
    check_prefix,
    check_vocabulary,
    find_data,
    fingerprint,
    open_data,
    packing_of,
    prefix_tokens,
    separator,
)
from inheritune.errors import InputError
from inheritune.evaluation.groups import Entry, with_averages
from inheritune.evaluation.judging import scoring, tokenizer_of
from inheritune.evaluation.reading import (
    Reading,
    predicted_texts,
    read_conversations,
    read_text,
    read_tokens,
    score,
)
from inheritune.evaluation.run_folder import EvaluatedRun
from inheritune.evaluation.statistics import few_documents
from inheritune.evaluation.tasks import Task, judge_task, on_harness
from inheritune.recipe import Reference, model_at
from inheritune.results import EvaluatedModel, EvaluatedText, TaskScore
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_COUNTED = {Conversation: "the assistant's turns", str: "text as a user's message"}
_CHATS_REMEDY = "give the conversations themselves, with --text"
_LONGEST = 1024  # tokens of a sequence, by default


@dataclass(frozen=True)
class EvaluationSpec:
    """What models are evaluated on."""

    data: str | Path | None
    paths: Sequence[str | Path]
    length: int | None
    attention: str | None
    prefix: str
    micro_batch: int
    limit: int | None
    chat: bool = False

    def of_runs(self, runs: Sequence[EvaluatedRun]) -> "EvaluationSpec":
        """Without a text: the validation text of the one run among the models, as the run reads it."""
        if self.data is not None or self.paths or not runs:
            return self
        if len({run.folder for run in runs}) > 1:
            raise InputError("models", "two runs, and each has a text of its own", "give --text or --data")
        recipe = runs[0].recipe
        return replace(
            self, data=runs[0].folder / "data", length=self.length or recipe.train.sequence_length,
            attention=self.attention or recipe.train.attention,
            prefix="none" if "none" in (self.prefix, recipe.data.prefix) else "auto",
        )  # fmt: skip

    def check(self, has_tasks: bool) -> None:
        """Raise InputError for settings that are not possible."""
        if self.paths and self.data is not None:
            raise InputError("text", "both text and data", "give --text or --data, one of the two")
        if not (self.paths or self.data is not None or has_tasks):
            raise InputError("command line", "nothing to judge on", "give --text, --data or --tasks")
        if self.chat and not self.paths:
            raise InputError("--chat", "it is for text", "name some with --text, or remove it")
        if self.data is not None:
            find_data(self.data)
        if self.attention not in (None, "sequence", "document"):
            raise InputError("attention", f"got {self.attention!r}", "give 'sequence' or 'document'")
        check_prefix(self.prefix, "--prefix")
        for place, value in (
            ("--sequence-length", self.length),
            ("--micro-batch", self.micro_batch),
            ("--limit", self.limit),
        ):
            if value is not None and value < 1:
                raise InputError(place, f"got {value}", "give 1 or more")

    def with_length(self, models: Sequence[Any]) -> "EvaluationSpec":
        """The spec with a length for which all models have positions. Raises InputError where there is none."""
        configs = [_config(one) for one in models]
        if self.length is not None:
            for config in configs:
                check_positions(config, self.length, "--sequence-length")
            return self
        return replace(self, length=min([_LONGEST, *(count for one in configs if (count := position_count(one)))]))


def _config(one: Any) -> Any:
    if isinstance(one, str | Path):
        one = model_at(one)
    return load_config(one) if isinstance(one, Reference) else one.config


class Measure:
    """Measures one model after the other, and keeps what they have in common."""

    def __init__(
        self, spec: EvaluationSpec, runtime: rt.Runtime, entries: Sequence[Entry], opened: Sequence[Task]
    ) -> None:
        self.spec, self.runtime, self.entries, self.opened = spec, runtime, entries, opened
        assert spec.length is not None
        self._length = spec.length
        self._conversations: list[tuple[str, str | Conversation]] = []
        self._texts = self._read_paths() if spec.paths else None
        self._origins: list[tuple[int, int]] | None = None  # of the texts
        self._prepared: Prepared | None = None
        self._seen: list[tuple[int, int, int, int]] = []  # sequences, tokens, bytes, documents of each model

    def judge(
        self, name: str, path: str | None, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None"
    ) -> EvaluatedModel:
        """A model on text and tasks."""
        on_text: dict[str, float | None] = {}
        if self.spec.paths or self.spec.data is not None:
            reading = self._reading(name, model, tokenizer)
            logger.info(
                f"{name}: {reading.sequences.count:,} sequences of {self.spec.length} tokens, {reading.bytes:,} bytes"
            )
            with scoring(
                model, self.runtime, reading.packing, sequence_length=self._length, precision="float32", parallel="ddp"
            ) as losses_of:
                on_text, tokens = score(reading, losses_of, self.runtime, self.spec.micro_batch)
            documents = reading.clusters.documents
            self._seen.append((reading.sequences.count, tokens, reading.bytes, documents))
            if len(self._seen) == 1 and (words := few_documents(reading.clusters, "text")):
                logger.warning(words)
            if reading.unknown:
                logger.info(
                    f"{name}: its tokenizer cannot spell {reading.unknown:,} of {tokens:,} tokens of this text,"
                    " so its bits per byte are too low"
                )
        tasks: dict[str, TaskScore] = {}
        if self.entries:
            tasks = self.runtime.on_rank0(lambda: self._tasks(name, model, tokenizer))
        return EvaluatedModel(
            name=name, path=path, parameters=parameter_count(model), layers=layer_count(model.config), **on_text,
            tasks=tasks,
        )  # fmt: skip

    def _read_paths(self) -> list[str]:
        """The text, or none where it is conversations, or is read as such."""
        found = list(contents(self.spec.paths))
        has_text = any(isinstance(one, str) for _, one in found)
        chats = [place for place, one in found if not isinstance(one, str)]
        if chats and self.spec.chat and not has_text:
            raise InputError("--chat", f"{chats[0]} has conversations already", "remove it")
        if chats and has_text and not self.spec.chat:
            remedy = "judge them apart, or give --chat, which makes a user's message of each text"
            raise InputError("--text", f"{chats[0]} has a conversation, and other files have text", remedy)
        self._conversations = found if chats or self.spec.chat else []
        return [] if self._conversations else [one for _, one in found if isinstance(one, str)]

    def text(self) -> EvaluatedText | None:
        """The text that was read, with what all models have in common."""
        if not self._seen:
            return None
        same = [one[0] if len(set(one)) == 1 else None for one in zip(*self._seen, strict=True)]
        spec = self.spec
        source = ", ".join(str(path) for path in spec.paths) if spec.paths else f"{spec.data} (validation)"
        counted = self._counted()
        return EvaluatedText(
            source=source, sequences=same[0], sequence_length=self._length, tokens=same[1], bytes=same[2] or None,
            documents=same[3], **({} if counted is None else {"counted": counted}),
        )  # fmt: skip

    def _counted(self) -> str | None:
        """What of conversations counts; None for text."""
        kinds = {type(one) for _, one in self._conversations}
        if kinds:
            return " and ".join(words for kind, words in _COUNTED.items() if kind in kinds)
        if self._prepared is None or not self._prepared.has_conversations:
            return None
        only = self._prepared.manifest["request"]["assistant_only_loss"]
        return _COUNTED[Conversation] if only else "all of conversations"

    def _reading(self, name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Reading:
        spec = self.spec
        if spec.paths:
            if tokenizer is None:
                raise InputError(
                    "tokenizer", "a loaded model comes without one", "give the tokenizer, or prepared data"
                )
            check_tokenizer_fits(tokenizer, model.config, name)
            place = ", ".join(str(path) for path in spec.paths)
            return self._of_chats(name, tokenizer, place) if self._conversations else self._of_text(tokenizer, place)
        return self._of_data(name, model, tokenizer)

    def _of_data(self, name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Reading:
        """Prepared data: the tokens themselves where this model's tokenizer made them, otherwise their text."""
        if self._prepared is None:
            assert self.spec.data is not None
            self._prepared = open_data(self.spec.data, self.runtime, model.config.vocab_size, tokenizer)
        prepared = self._prepared
        if tokenizer is None or fingerprint(tokenizer) == prepared.manifest["tokenizer"]:
            check_vocabulary(prepared, model.config.vocab_size, str(self.spec.data))
            tokenizer = tokenizer or tokenizer_of(prepared)
            return read_tokens(self._sequences(tokenizer), tokenizer, prepared.validation_origins)
        check_tokenizer_fits(tokenizer, model.config, name)
        if prepared.has_conversations:
            what = "conversations in the template of another model"
            raise InputError(str(self.spec.data), f"{what}, and {name} has a tokenizer of its own", _CHATS_REMEDY)
        if self._texts is None:
            made_by = tokenizer_of(prepared)
            if made_by is None:
                what = "token files of one tokenizer, and a model with another one is to be judged on them"
                raise InputError(str(self.spec.data), what, "give the text itself, with --text")
            texts, origins = predicted_texts(self._sequences(made_by), made_by), prepared.validation_origins
            self._texts = list(texts.values())
            self._origins = None if origins is None else [origins[number] for number in texts]
        return self._of_text(tokenizer, str(self.spec.data))

    def _of_text(self, tokenizer: "PreTrainedTokenizerBase", place: str) -> Reading:
        """Text, read in the same way as data that were prepared from it."""
        assert self._texts is not None
        by_data = self._prepared is not None and self._prepared.manifest.get("prefix") == "none"
        prefix = () if self.spec.prefix == "none" or by_data else prefix_tokens(tokenizer)
        packing = Packing(prefix, separator(tokenizer, place), self.spec.attention == "document")
        return read_text(self._texts, tokenizer, packing, self._length, place, self._origins)

    def _of_chats(self, name: str, tokenizer: "PreTrainedTokenizerBase", place: str) -> Reading:
        """Conversations, and texts as a user's messages, in the model's own chat template."""
        template, rendered = ChatTemplate(tokenizer, name, assistant_only=True), []
        for where, one in self._conversations:
            try:
                rendered.append(template.as_user(one) if isinstance(one, str) else template.render(one))
            except CannotRender as error:
                raise InputError(f"{name}: {where}", error.what, error.remedy) from None
        packing = Packing((), separator(tokenizer, place), self.spec.attention == "document")
        return read_conversations(template, rendered, tokenizer, packing, self._length, place)

    def _sequences(self, tokenizer: "PreTrainedTokenizerBase | None") -> Sequences:
        assert self._prepared is not None
        attention = self.spec.attention or "sequence"
        packing = packing_of(self._prepared, tokenizer, attention=attention, prefix=self.spec.prefix)
        return Sequences(self._prepared.tokens("validation"), self._length, "data.validation", packing=packing)

    def _tasks(
        self, name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None"
    ) -> dict[str, TaskScore]:
        if tokenizer is None:
            raise InputError("tokenizer", "a loaded model comes without one", "give the tokenizer")
        lm = on_harness(model, tokenizer, self.spec.micro_batch)
        scores: dict[str, TaskScore] = {}
        for number, task in enumerate(self.opened, 1):
            logger.info(f"{name}: {task.entry.name} ({number} of {len(self.opened)} tasks)")
            scores |= judge_task(task, lm, self.spec.limit)
        return with_averages(scores)
