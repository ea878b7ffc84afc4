"""Teachers: loading and checking them, and how their outputs reach a training."""

import copy
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import (
    check_positions,
    find_tokenizer,
    load_config,
    load_model,
    logits_width,
    training_flops_per_token,
)
from inheritune.data import Prepared, Sequences, Tokens, check_tokenizer
from inheritune.distillation.choice import Estimate
from inheritune.distillation.layout import Layout
from inheritune.distillation.outputs import OnlineOutputs, StoredOutputs
from inheritune.distillation.storing import Store, batch_size
from inheritune.errors import InputError
from inheritune.losses import Distillation, TeacherNeeds
from inheritune.recipe import Reference, Training, model_at
from inheritune.runlog import logger, read_mapping, write_json
from inheritune.runtime import Runtime
from inheritune.training import check_documents_apart

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FORMAT = 1


@dataclass(frozen=True)
class TeacherInfo:
    """Facts about a teacher that are kept without its weights: their SHA-256, the entries of its logits, the FLOPs of
    a forward pass per token.
    """

    checksum: str
    vocabulary: int
    flops: int


class Teacher:
    """A model that others learn from. All arms with this teacher share one object, so its outputs are computed once.

    `source` is where it is, or the model itself, which does not change. Stored outputs are in the folder `kept`, under
    a name made of what they depend on, so several teachers may share the folder, but not several jobs at once.
    `trainings` is the expected number of trainings that learn from it, for the choice between storing and computing
    online.
    """

    def __init__(self, source: "Reference | PreTrainedModel", kept: Path, trainings: int = 1) -> None:
        self._source, self._kept, self._trainings = source, kept, trainings
        self._known: dict[tuple[int, bool], TeacherInfo] = {}

    @property
    def config(self) -> "PretrainedConfig":
        """The model's config."""
        return load_config(self._source) if isinstance(self._source, Reference) else self._source.config

    @property
    def title(self) -> str:
        """The name that messages use."""
        return self._source.title if isinstance(self._source, Reference) else type(self._source).__name__

    def outputs(
        self, request: "DistillationRequest", runtime: Runtime
    ) -> tuple["OnlineOutputs | StoredOutputs", dict[str, Any]]:
        """The outputs that a training learns from, and their cost: teacher_outputs, teacher_flops, and for stored ones
        teacher_seconds.

        Missing outputs are computed before they are stored; this resumes after a kill. Raises InputError where the
        teacher has another vocabulary than the model or cannot do what the request needs, and RunError where the disk
        has no room.
        """
        settings = request.settings
        model: PreTrainedModel | None = None
        use = settings.sequence_length, request.sequences.packing.documents
        if use not in self._known:
            model = self._load()
            self._known[use] = self._inspect(model, request)
        known = self._known[use]
        check_distillation(request.needs, known.vocabulary, f"{request.arm}: train.distillation.top_k")
        check_same_vocabulary(self.title, known.vocabulary, request.vocabulary, request.arm)
        layout = Layout(settings.sequence_length, known.vocabulary, request.needs.top_k)
        precision = runtime.resolve_precision(settings.precision)
        precision = "float32" if precision == "float32" else "bfloat16"
        store = Store.of(self._kept, layout, _facts(known, request, precision))
        online: OnlineOutputs | None = None

        def teacher() -> OnlineOutputs:
            nonlocal model, online
            if online is None:
                ready = model if model is not None else self._load()
                online = OnlineOutputs(ready, request.needs, runtime, precision)
                model = None
            return online

        if self._choose(store, request, teacher, runtime) == "online":
            uses = request.uses * settings.sequence_length
            return teacher(), {"teacher_outputs": "online", "teacher_flops": uses * known.flops}
        if not runtime.on_rank0(lambda: store.exists):
            store.make(request.sequences, teacher(), runtime)
        words, manifest = store.open()
        runtime.on_rank0(lambda: store.verify(words))
        cost = {
            "teacher_outputs": "stored",
            "teacher_flops": request.sequences.count * settings.sequence_length * known.flops,
            "teacher_seconds": manifest["seconds"],
        }
        return StoredOutputs(layout, words), cost

    def _load(self) -> "PreTrainedModel":
        """The teacher's own copy of the weights, on the CPU."""
        return load_model(self._source) if isinstance(self._source, Reference) else copy.deepcopy(self._source)

    def _inspect(self, model: "PreTrainedModel", request: "DistillationRequest") -> TeacherInfo:
        """The facts about the teacher, after checks that it can do what the request needs."""
        length, packing = request.settings.sequence_length, request.sequences.packing
        check_positions(model.config, length, f"{request.arm}: train.sequence_length, for the teacher {self.title}")
        if packing.documents and packing.end_of_text is not None:
            place = f"{request.arm}: train.attention: document, for the teacher {self.title}"
            check_documents_apart(model, packing.end_of_text, length, place)
        forward = training_flops_per_token(model, length) // 3
        return TeacherInfo(checksum_of(model), logits_width(model), forward)

    def _choose(
        self, store: Store, request: "DistillationRequest", teacher: Callable[[], OnlineOutputs], runtime: Runtime
    ) -> str:
        """`stored` or `online`. The choice of `auto` is kept beside the folder for all arms and restarts."""
        wanted = "online" if request.settings.distillation is None else request.settings.distillation.outputs
        why = None
        if request.needs.hidden_states:
            if wanted == "stored":
                raise InputError(
                    f"{request.arm}: train.distillation.outputs",
                    "stored, and a loss asks for the teacher's hidden states, which are not stored",
                    "give online or auto",
                )
            why = "as its hidden states are not stored"
        elif request.settings.sampling == "with replacement":
            why = "as with train.sampling: with replacement sequences begin anywhere"
        if why is not None:
            if wanted == "auto":
                logger.info(f"{request.arm}: teacher online, {why}")
            return "online"
        if wanted != "auto":
            return wanted
        decided = store.folder.with_name(f"{store.folder.name}-choice.json")

        def known() -> str | None:
            if decided.exists():  # it counts even if others have stored the outputs since
                return str(read_mapping(decided, "outputs")["outputs"])
            return "stored" if store.exists else None

        choice: str | None = runtime.on_rank0(known)
        if choice is not None:
            return choice
        online = teacher()

        def estimate() -> str:
            self._kept.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._kept).free
            seconds = _seconds(online, request, store.layout, runtime.device)
            estimated = Estimate(
                request.sequences.count, request.uses * self._trainings, seconds, store.layout.size, free
            )
            logger.info(f"{request.arm}: teacher {estimated}")
            write_json(decided, {"outputs": estimated.choice, "estimate": str(estimated)})
            return estimated.choice

        return runtime.on_rank0(estimate)


@dataclass(frozen=True)
class DistillationRequest:
    """What one training asks of its teacher.

    `arm` names it in messages, `vocabulary` is the number of entries of its model's logits, `uses` how many sequences
    it sees, `needs` what its losses ask for.
    """

    arm: str
    settings: Training
    sequences: Sequences
    uses: int
    vocabulary: int
    needs: TeacherNeeds


def open_teacher(source: "PreTrainedModel | str | Path", kept: Path, prepared: Prepared) -> Teacher:
    """A teacher for prepared data: a loaded model, a hub id, a folder or a .gguf file.

    Raises InputError where its tokenizer is not the one that made the data.
    """
    if not isinstance(source, str | Path):
        return Teacher(source, kept)
    place = model_at(source)
    tokenizer = find_tokenizer(place)
    if tokenizer is not None:
        check_tokenizer(prepared, tokenizer, f"teacher {place.title}")
    return Teacher(place, kept)


def check_has_teacher(teacher: object | None, settings: Training, arm: str) -> None:
    """Raise InputError where there is a teacher and no loss to learn from it with, or the other way round."""
    if (teacher is not None) == settings.needs_teacher:
        return
    what, remedy = "has no teacher", "name one, or set it to null"
    if teacher is not None:
        what, remedy = "is null, and there is a teacher", "set it ({} takes the paper's settings), or name none"
    raise InputError(f"{arm}: train.distillation", what, remedy)


def check_distillation(asked: Distillation | TeacherNeeds, vocabulary: int, place: str) -> None:
    """Raise InputError where `top_k` exceeds the teacher's vocabulary."""
    if asked.top_k is not None and asked.top_k > vocabulary:
        raise InputError(
            place, f"{asked.top_k:,}, the teacher's vocabulary has {vocabulary:,} entries",
            f"give at most {vocabulary:,}, or null for all of them",
        )  # fmt: skip


def check_same_vocabulary(title: str, teacher: int, model: int, arm: str) -> None:
    """Raise InputError where the logits of a teacher and of the arm's model differ in their number of entries."""
    if teacher != model:
        raise InputError(
            f"{arm}: teacher",
            f"the logits of {title} have {teacher:,} entries, the model's {model:,}",
            "give a teacher with the model's own vocabulary",
        )


def _facts(known: TeacherInfo, request: DistillationRequest, precision: str) -> dict[str, Any]:
    """Everything that outputs depend on."""
    settings, packing, tokens = request.settings, request.sequences.packing, request.sequences.tokens
    if isinstance(tokens, Tokens):
        data = [shard.sha256 for shard in tokens.shards]
    else:
        data = [hashlib.sha256(tokens.tobytes()).hexdigest()]
    # keys that only a prefix adds, so that stored outputs without one keep their name
    framed = {"prefix": packing.prefix, "documents_end": packing.end_of_text} if packing.prefix else {}
    return {
        "format": FORMAT,
        "teacher": known.checksum,
        "vocabulary": known.vocabulary,
        "data": data,
        "sequence_length": settings.sequence_length,
        "sequences": request.sequences.count,
        "top_k": request.needs.top_k,
        "temperature": request.needs.temperature,
        "precision": precision,
        "end_of_text": packing.end_of_text if packing.documents else None,
        **framed,
    }


def checksum_of(model: "PreTrainedModel") -> str:
    """SHA-256 over names, types and bytes of all tensors of a model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _seconds(teacher: OnlineOutputs, request: DistillationRequest, layout: Layout, device: str) -> float:
    """How long the teacher takes for a sequence: the second of two passes, the first of which warms up."""
    size = min(batch_size(layout), request.sequences.count)
    examples = request.sequences.rows(range(size)).examples().to(device)
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            taught = teacher(examples.inputs, positions=examples.positions, places=examples.places)
            for first in range(0, size * layout.sequence_length, layout.sequence_length):
                last = taught.distribution(slice(first, first + layout.sequence_length))
        last.log_probabilities[:1].cpu()  # waits for the device
        took = time.perf_counter() - began
    return took / size
