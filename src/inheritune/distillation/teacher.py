"""Teachers: loading and checking them, and how their outputs reach a training."""

import copy
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
from inheritune.data import MarkedTokens, Prepared, Sequences, Tokens, check_tokenizer
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

FORMAT = 2  # 1 had the log-probabilities of the whole vocabulary


@dataclass(frozen=True)
class TeacherInfo:
    """Facts about a teacher that are kept without its weights: their SHA-256, the entries of its logits, the FLOPs of
    a forward pass per token, and the layer that makes logits of final hidden states (`OnlineOutputs.linear`), on the
    CPU.
    """

    checksum: str
    vocabulary: int
    flops: int
    linear: "torch.nn.Linear | None"

    @property
    def states(self) -> int:
        """Numbers of a final hidden state; of logits, where these cannot be made of one by a linear layer."""
        return self.vocabulary if self.linear is None else self.linear.in_features

    @property
    def head_flops(self) -> int:
        """FLOPs per token of the linear layer, which are among `flops`."""
        return 0 if self.linear is None else 2 * sum(parameter.numel() for parameter in self.linear.parameters())


class Teacher:
    """A model that others learn from. All arms with this teacher share one object, so its outputs are computed once.

    `source` is where it is, or the model itself, which does not change. Stored outputs are in the folder `kept`, under
    a name made of what they depend on, so several teachers may share the folder, but not several jobs at once.
    `trainings` is the expected number of trainings that learn from it, for the choice between storing and computing
    online.
    """

    def __init__(self, source: "Reference | PreTrainedModel", kept: Path, trainings: int = 1) -> None:
        self._source, self._kept, self._trainings = source, kept, trainings
        self._known: dict[tuple[int, bool, str], TeacherInfo] = {}

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
        teacher_seconds and, where the head computes distributions again, teacher_head_flops.

        Missing outputs are computed before they are stored; this resumes after a kill. Raises InputError where the
        teacher has another vocabulary than the model or cannot do what the request needs, and RunError where the disk
        has no room.
        """
        settings, length = request.settings, request.settings.sequence_length
        precision = runtime.resolve_precision(settings.precision)
        precision = "float32" if precision == "float32" else "bfloat16"
        use = length, request.sequences.packing.documents, precision
        online: OnlineOutputs | None = None
        if use not in self._known:
            online, self._known[use] = self._open(request, runtime, precision)
        known = self._known[use]
        self._check(request, known.vocabulary)
        hidden_size = self.config.hidden_size if request.needs.hidden_states else 0
        layout = Layout.of(request.needs, length, known.vocabulary, known.states, hidden_size, precision)
        store = Store.of(self._kept, layout, _facts(known, request, layout))

        def teacher() -> OnlineOutputs:
            nonlocal online
            if online is None:
                online = OnlineOutputs(self._load(), request.needs, runtime, precision)
            return online

        uses, passed = request.uses * length, request.sequences.count * length
        has_distribution = request.needs.temperature is not None
        if self._choose(store, request, teacher, runtime) == "online":
            each = known.flops - (0 if has_distribution else known.head_flops)
            return teacher(), {"teacher_outputs": "online", "teacher_flops": uses * each}
        if not runtime.on_rank0(lambda: store.exists):
            if layout.states and known.linear is None:
                what = "the teacher's logits are stored, as no linear layer makes them of hidden states"
                logger.info(f"{request.arm}: {what}")
            store.make(request.sequences, teacher(), runtime)
        words, manifest = store.open()
        runtime.on_rank0(lambda: store.verify(words))
        cost = {
            "teacher_outputs": "stored",
            "teacher_flops": passed * (known.flops - (0 if layout.top_k is not None else known.head_flops)),
            "teacher_seconds": manifest["seconds"],
        }
        if not layout.states or known.linear is None:
            return StoredOutputs(layout, words, request.needs, None), cost
        cost["teacher_head_flops"] = uses * known.head_flops
        return StoredOutputs(layout, words, request.needs, _on(known.linear, runtime.device)), cost

    def _load(self) -> "PreTrainedModel":
        """The teacher's own copy of the weights, on the CPU."""
        return load_model(self._source) if isinstance(self._source, Reference) else copy.deepcopy(self._source)

    def _check(self, request: "DistillationRequest", vocabulary: int) -> None:
        """Raise InputError where a teacher of this vocabulary does not have what is asked for."""
        check_distillation(request.needs, vocabulary, f"{request.arm}: train.distillation.top_k")
        check_same_vocabulary(self.title, vocabulary, request.vocabulary, request.arm)

    def _open(
        self, request: "DistillationRequest", runtime: Runtime, precision: str
    ) -> tuple[OnlineOutputs, TeacherInfo]:
        """The teacher on the device, and the facts about it, after checks that it can do what the request needs."""
        model = self._load()
        length, packing = request.settings.sequence_length, request.sequences.packing
        check_positions(model.config, length, f"{request.arm}: train.sequence_length, for the teacher {self.title}")
        if packing.documents and packing.end_of_text is not None:
            place = f"{request.arm}: train.attention: document, for the teacher {self.title}"
            check_documents_apart(model, packing.end_of_text, length, place)
        checksum, vocabulary = checksum_of(model), logits_width(model)
        self._check(request, vocabulary)
        forward = training_flops_per_token(model, length) // 3
        online = OnlineOutputs(model, request.needs, runtime, precision)
        linear = None if online.linear is None else _on(online.linear, "cpu")
        return online, TeacherInfo(checksum, vocabulary, forward, linear)

    def _choose(
        self, store: Store, request: "DistillationRequest", teacher: Callable[[], OnlineOutputs], runtime: Runtime
    ) -> str:
        """`stored` or `online`. The choice of `auto` is kept beside the folder for all arms and restarts."""
        wanted = "online" if request.settings.distillation is None else request.settings.distillation.outputs
        if request.settings.sampling == "with replacement":
            if wanted == "auto":
                logger.info(
                    f"{request.arm}: teacher online, as with train.sampling: with replacement sequences begin anywhere"
                )
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
            seconds, again = _seconds(online, request, store.layout, runtime.device)
            # other trainings learn from other blocks
            trainings = 1 if request.needs.hidden_states else self._trainings
            estimated = Estimate(
                request.sequences.count, request.uses * trainings, seconds, again, store.layout.size, free
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


def _facts(known: TeacherInfo, request: DistillationRequest, layout: Layout) -> dict[str, Any]:
    """Everything that outputs depend on."""
    packing, tokens = request.sequences.packing, request.sequences.tokens
    if isinstance(tokens, Tokens):
        data = [shard.sha256 for row in (tokens, tokens.marks) if row is not None for shard in row.shards]
    else:
        arrays = (tokens.tokens, tokens.marks) if isinstance(tokens, MarkedTokens) else (tokens,)
        data = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    return {
        "format": FORMAT,
        "teacher": known.checksum,
        "data": data,
        "sequences": request.sequences.count,
        **asdict(layout),
        "temperature": None if layout.top_k is None else request.needs.temperature,
        "prefix": packing.prefix,
        "attention": "document" if packing.documents else "sequence",
        "end_of_text": packing.end_of_text if packing.documents or packing.prefix else None,
        **({} if request.sequences.placement is None else {"long_conversations": packing.long_conversations}),
    }


def checksum_of(model: "PreTrainedModel") -> str:
    """SHA-256 over names, types and bytes of all tensors of a model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _on(linear: torch.nn.Linear, device: str) -> torch.nn.Linear:
    """The layer on a device: itself, or a copy."""
    return linear if linear.weight.device.type == device else copy.deepcopy(linear).to(device)


def _seconds(teacher: OnlineOutputs, request: DistillationRequest, layout: Layout, device: str) -> tuple[float, float]:
    """How long a sequence takes: what storing saves, and what is computed at each use either way.

    Of two rounds the second counts; the first one warms up.
    """
    size, length = min(batch_size(layout), request.sequences.count), layout.sequence_length
    examples = request.sequences.rows(range(size)).examples().to(device)
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            taught = teacher(examples.inputs, positions=examples.positions, places=examples.places)
            taught.states_ND[:1].cpu()  # waits for the device
            passed = time.perf_counter()
            if request.needs.temperature is not None:
                for first in range(0, size * length, length):
                    last = taught.distribution(slice(first, first + length))
                last.log_probabilities[:1].cpu()
        ended = time.perf_counter()
    if not layout.states:  # nothing is computed again
        passed = ended
    return (passed - began) / size, (ended - passed) / size
