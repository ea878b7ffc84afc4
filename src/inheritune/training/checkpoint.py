"""Checkpoints, which appear whole or not at all. They consist of safetensors and JSON; nothing is pickled.

Each process writes its share with torch.distributed.checkpoint, as safetensors, while training continues; any number of
processes can read them. The folder gets its name when all files are written, synced and summed.
"""

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from inheritune.errors import DamagedFile, InputError, RunError
from inheritune.runlog import checksum, logger, new_folder, read_json, read_mapping, write_json
from inheritune.runtime import Runtime, side_group

_NAME = re.compile(r"^step-(\d{9})$")
_FILE_BYTES = (2**28, 2**31)  # the least and the most that a file of a large checkpoint has
_TOO_LARGE = "out-of-memory-*.json"  # by process
_FACTS, _OWN_SUM = "checkpoint.json", "checksum"
_WEIGHTS = "model"  # what the names of a model's tensors begin with
BEST = "best"
"""The folder beside the steps with the weights of the lowest validation loss."""


@dataclass(frozen=True)
class TrainProgress:
    """How far a training is: optimizer steps done, the seconds they took, and the seconds with validation and
    checkpoints; how many batches were skipped after loss spikes; the micro-batch in use, and the recipe's (0: auto).
    """

    step: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    skipped: int = 0
    micro_batch: int = 0
    asked_micro_batch: int = 0


def known_at(position: TrainProgress | None) -> Callable[[dict[str, Any]], bool]:
    """Whether a record of metrics.jsonl belongs to a training at this position (None: it has not begun, so none does).

    A spike belongs to the checkpoint in which its batches are skipped, as without that checkpoint it happens again.
    """

    def is_known(record: dict[str, Any]) -> bool:
        if position is None or record["step"] > position.step:
            return False
        return "event" not in record or record["skipped_batches"][1] < position.step + position.skipped

    return is_known


class Checkpoints:
    """The checkpoints of one training, in `folder`. Every process has one and calls it at the same steps."""

    def __init__(self, folder: Path, keep: int, runtime: Runtime) -> None:
        self.folder, self.keep, self.runtime = folder, keep, runtime
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []
        self._group: Any = None
        runtime.on_rank0(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._disk = _disk_of(folder)
        if runtime.world_size > 1:
            self._group = side_group()  # of its own, so that writing does not wait for training

    def save(self, position: TrainProgress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Begin to write step-N with `tensors` by name (shared ones once). Removes the oldest ones beyond `keep`.

        The tensors are copied before this returns. Raises RunError for an earlier checkpoint that could not be written.
        """
        self._begin(f"step-{position.step:09d}", tensors, {"position": asdict(position)})

    def save_best(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Begin to write the best weights so far, in place of the earlier ones; `facts` go into checkpoint.json."""
        self._begin(BEST, tensors, facts)

    def note_too_large(self, micro_batch: int, asked: int) -> None:
        """Record for the next start that this micro-batch needs too much memory; `asked` is the recipe's.

        Of several processes only the one that ran out of memory calls this, as the job then ends.
        """
        if self.runtime.world_size > 1 and micro_batch > 1:
            note = {"fits": micro_batch // 2, "asked": asked}
            write_json(self.folder / _TOO_LARGE.replace("*", str(self.runtime.rank)), note)

    def fitting(self, micro_batch: int, asked: int) -> int:
        """The micro-batch, or a smaller one that an earlier start with the same recipe recorded."""

        def smallest() -> int:
            notes = [read_mapping(note, "fits", "asked") for note in self.folder.glob(_TOO_LARGE)]
            return min([micro_batch, *(int(note["fits"]) for note in notes if note["asked"] == asked)])

        return self.runtime.on_rank0(smallest)

    def wait(self) -> None:
        """Wait until everything is written. Raises RunError where that failed; older checkpoints stay."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """Finish what is being written, and end the writer."""
        self._writer.shutdown(wait=True)

    def _begin(self, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        from torch.distributed.checkpoint.staging import BlockingAsyncStager

        self.wait()  # one at a time: a second copy would double the memory
        staged = BlockingAsyncStager().stage(dict(tensors))
        self._pending.append(self._writer.submit(self._write, self.folder / name, staged, dict(facts)))

    def _write(self, target: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        self._check_disk()
        remedy = "the one before it is good; make room, then run again"
        with _in_a_line(target, "the checkpoint cannot be written", remedy), self._folder(target) as partial:
            sums = self._write_tensors(partial, tensors)
            if self.runtime.is_rank0:
                facts["checksums"] = sums
                write_json(partial / _FACTS, {**facts, _OWN_SUM: _sum_of(facts)})
        if self.runtime.is_rank0:
            self._drop_old()
        self._meet()  # if a process ended before the first one is done, the launcher would end that one too

    def _check_disk(self) -> None:
        """Raise RunError where the folder is on another disk than before, as after a mount has vanished."""
        if self._disk is not None and _disk_of(self.folder) != self._disk:
            raise RunError(
                str(self.folder),
                "no longer there (has its disk been unmounted?); no checkpoint can be written, older ones stay as is",
                "bring it back, then run the same command again to resume",
            )

    @contextmanager
    def _folder(self, target: Path) -> Iterator[Path]:
        """The folder to fill, which the first process makes and names."""
        if self.runtime.is_rank0:
            with new_folder(target) as partial:
                self._meet()
                yield partial
        else:
            self._meet()
            yield target.with_name(f".{target.name}.partial")

    def _write_tensors(self, partial: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
        """Write this process's share; returns the sums of all processes' files, by name."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
        every = {name: size for part in self.runtime.gather(sizes, self._group) for name, size in part.items()}
        writer = HuggingFaceStorageWriter(str(partial), fqn_to_index_mapping=_files(every), save_distributed=True)
        _quiet()
        save(tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        own = partial.glob(f"shard-{self.runtime.rank + 1:05d}-*")
        sums = {file.name: checksum(file) for file in sorted(own)}
        return {name: value for part in self.runtime.gather(sums, self._group) for name, value in part.items()}

    def _meet(self) -> None:
        if self._group is not None:
            dist.barrier(group=self._group)

    def newest(self) -> Path | None:
        """The newest whole checkpoint. Damaged ones are removed, with a warning."""
        newest = self.runtime.on_rank0(self._newest)
        return None if newest is None else Path(newest)

    def best_loss(self) -> float:
        """The validation loss of the best weights, infinite without any; the same on all processes.

        `newest` has removed damaged ones.
        """

        def read() -> float:
            if not is_checkpoint(self.folder / BEST):
                return math.inf
            return float(read_facts(self.folder / BEST)["val_loss"])

        self.wait()
        return self.runtime.on_rank0(read)

    def _finish_interrupted(self) -> None:
        """Rename the folders that were complete when the process was killed; remove the others."""
        for partial in self.folder.glob(".*.partial"):
            if partial.is_symlink():
                partial.unlink()  # not written by us
            elif fault_of(partial) is None:
                target = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
                shutil.rmtree(target, ignore_errors=True)
                partial.replace(target)
            else:
                shutil.rmtree(partial)

    def _drop_old(self) -> None:
        for old in list_checkpoints(self.folder)[: -self.keep]:
            _remove(self.folder / f"step-{old:09d}")

    def _newest(self) -> str | None:
        self._finish_interrupted()
        best = self.folder / BEST
        if best.exists() and (fault := fault_of(best)) is not None:
            again = "it is removed, and made again when a lower validation loss is seen"
            logger.warning(f"{best} is damaged ({fault}); {again}")
            _remove(best)
        for step in reversed(list_checkpoints(self.folder)):
            target = self.folder / f"step-{step:09d}"
            fault = fault_of(target)
            if fault is None:
                self._drop_old()  # a kill may have interrupted a removal
                return str(target)
            logger.warning(f"checkpoint {target} is damaged ({fault}); it is removed, going back to the one before")
            _remove(target)
        return None


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers, a shared tensor once, by the names that a checkpoint has for them."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[f"{_WEIGHTS}/{name}"] = tensor.detach()
    return tensors


def read_position(target: Path) -> TrainProgress:
    """The progress of a checkpoint's training."""
    return TrainProgress(**read_facts(target)["position"])


def read_facts(target: Path) -> dict[str, Any]:
    """The content of checkpoint.json: the position, or step and validation loss of the best; the sums of all files."""
    facts: dict[str, Any] = read_json(target / _FACTS)
    return facts


def _sum_of(facts: dict[str, Any]) -> str:
    """The sum of the content of checkpoint.json, independent of its formatting."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_tensors(target: Path, tensors: dict[str, torch.Tensor], runtime: Runtime) -> None:
    """Fill `tensors` from a checkpoint, whatever the number of processes that wrote it.

    Values are copied into memory of torch's own: matrix products on memory-mapped, differently aligned memory may round
    differently, and the run would not end with the same bits.

    Raises InputError when the checkpoint is of another model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _check_model(target, tensors)
    _quiet()
    with _in_a_line(target, "the checkpoint cannot be read", "check the disk, then run again"):
        load(tensors, storage_reader=HuggingFaceStorageReader(str(target)), no_dist=runtime.world_size == 1)


def stored_shapes(target: Path) -> dict[str, tuple[int, ...]]:
    """The names of a checkpoint's tensors, and the shape of each as a whole."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata: dict[str, Any] = HuggingFaceStorageReader(str(target)).read_metadata().state_dict_metadata
    return {name: tuple(stored.size) for name, stored in metadata.items()}


@contextmanager
def _in_a_line(target: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn errors of torch and safetensors into an OSError that names a file, or a RunError."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (SafetensorError, CheckpointException, OSError) as error:
        causes: list[BaseException] = [error]
        if isinstance(error, CheckpointException):  # which is no Exception, and has those of all processes
            causes = [failure[0] for failure in error.failures.values()]
        for cause in causes:
            if isinstance(cause, OSError):
                cause.filename = cause.filename or str(target)  # a full disk is reported without one
            if isinstance(cause, OSError | KeyboardInterrupt):  # torch wraps a signal too
                raise cause from None
        shown = " ".join(f"{type(causes[0]).__name__}: {causes[0]}".split())[:300]
        raise RunError(str(target), f"{what} ({shown})", remedy) from None


def _check_model(target: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError where the stored weights have other names or shapes than `tensors`."""
    stored = stored_shapes(target)
    wrong = [name for name, tensor in tensors.items() if stored.get(name) != tuple(tensor.shape)]
    wrong += [name for name in stored if name.startswith(f"{_WEIGHTS}/") and name not in tensors]
    if wrong:
        what = f"belongs to another model: {len(wrong)} tensors are missing or of another shape ({wrong[0]} ...)"
        remedy = "give the model and settings that the training was started with, or another folder"
        raise InputError(str(target), what, remedy)


def list_checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in rising order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.match(path.name)))


def is_checkpoint(target: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return (target / _FACTS).is_file()


def fault_of(target: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where nothing is.

    Raises OSError where the files cannot be read (no permission, a disk that does not answer), which is no damage.
    """
    try:
        facts = read_facts(target)
        own = facts.pop(_OWN_SUM)
        sums: dict[str, str] = facts["checksums"]
    except (FileNotFoundError, NotADirectoryError):
        return f"{_FACTS} is missing"
    except (RunError, DamagedFile, KeyError, TypeError, AttributeError):
        return f"{_FACTS} cannot be read"
    if own != _sum_of(facts):
        return f"{_FACTS} has changed"
    for name, expected in sums.items():
        if not (target / name).is_file():
            return f"{name} is missing"
        if not _opens(target / name) or checksum(target / name) != expected:
            return f"{name} has changed"
    return None


def _opens(file: Path) -> bool:
    """Whether a file is as long as its header says. This takes no time, whereas its sum may take minutes."""
    try:
        with safe_open(str(file), framework="numpy"):
            return True
    except SafetensorError:
        return False


def _remove(target: Path) -> None:
    """Remove a checkpoint, or a link to one on another disk."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink()


def _disk_of(folder: Path) -> int | None:
    """The number of the file system that a folder is on; None where it cannot be read."""
    with suppress(OSError):
        return folder.stat().st_dev
    return None


def _files(sizes: Mapping[str, int]) -> dict[str, int]:
    """The number of the file for each tensor, from sizes in bytes. Each file is assembled in memory, twice.

    So there are up to 32 files, and more of very large checkpoints.
    """
    least, most = _FILE_BYTES
    limit = min(most, max(least, sum(sizes.values()) // 32))
    files, number, filled = {}, 1, 0
    for name, size in sizes.items():
        if filled and filled + size > limit:
            number, filled = number + 1, 0
        files[name] = number
        filled += size
    return files


def _quiet() -> None:
    """A single process is intended; torch warns about it at every call."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
