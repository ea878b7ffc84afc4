"""`analyze`: figures of models on text, in analysis.json and on a page."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune import runtime as rt
from inheritune.analysis.choice import choose_blocks, sequences_wanted
from inheritune.analysis.figures import describe
from inheritune.analysis.measures import COLLAPSED_BELOW
from inheritune.analysis.rank import check_tau
from inheritune.arch import check_positions, layer_count, load_tokenizer, parameter_count, position_count, ready, title
from inheritune.corpus import sample_text
from inheritune.data import (
    Rows,
    Sequences,
    check_prefix,
    check_tokenizer,
    check_vocabulary,
    open_data,
    packing_of,
    sample,
)
from inheritune.errors import InputError
from inheritune.inheritance import check_free, free_output
from inheritune.recipe import Inherit, Reference
from inheritune.report import write_report
from inheritune.results import Analysis, AnalyzedModel, AnalyzedText, BlockChoice
from inheritune.runlog import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CALIBRATION_LENGTH = 256


def analyze(
    models: "str | Path | Reference | PreTrainedModel | Sequence[str | Path | Reference | PreTrainedModel]", *,
    text: str | Path | Sequence[str | Path] = (), data: str | Path | None = None, sequences: int = 100,
    sequence_length: int = 100, tau: float | Sequence[float] = 0.9, loss_sequences: int = 8,
    selection: Inherit | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto",
    dtype: str = "auto", micro_batch: int = 8, prefix: str = "auto", out: str | Path | None = None,
) -> Analysis:  # fmt: skip
    """What the heads and blocks of one or several decoders do on text (docs/analysis.md has every field).

    `text` are files, folders, patterns or addresses, or `data` is a folder that `prepare` wrote, whose validation text
    is used. Attention is measured on `sequences` sequences of `sequence_length` tokens, spread evenly over the text;
    losses on the first `loss_sequences` of them. `tau` is one or several shares of the squared norm that ranks hold.
    With `selection`, blocks are chosen from the first model, on training text where `data` is given. Models are
    moved to `device` in `dtype`; a loaded one does not change. auto: bfloat16 on a GPU; on a CPU float32, but products
    for losses in bfloat16 where the processor has instructions for it. Each sequence begins with what the model's own
    tokenizer puts in front of a text, unless `prefix` is `none`. `out` is a folder to write analysis.json,
    index.html and analysis.md to.

    Raises InputError for text that is too short, a tau outside (0, 1), sequences longer than a model's positions, a
    model that is no decoder, and when `out` exists. Source: arXiv 2404.08634 v4, sections 3 and 4.
    """
    listed = list(models) if isinstance(models, list | tuple) else [models]
    shares = [float(share) for share in ([tau] if isinstance(tau, int | float) else tau)]
    paths = [text] if isinstance(text, str | Path) else list(text)
    _check(listed, paths, data, shares, sequences, sequence_length, loss_sequences)
    if out is not None:
        check_free(Path(out))
    runtime = rt.start(device)
    with ExitStack() as held:
        folder = None if out is None else runtime.on_rank0(lambda: held.enter_context(free_output(Path(out))))
        precision = _loss_precision(dtype, runtime)
        text_of = _Text(paths, data, runtime, prefix)
        measure = partial(
            _measured, text_of=text_of, tokenizer=tokenizer, dtype=dtype, sequences=sequences,
            sequence_length=sequence_length, micro_batch=micro_batch, precision=precision, tau=shares,
            loss_sequences=loss_sequences, progress=None if folder is None else drops_beside(folder),
        )  # fmt: skip
        measured = [measure(one, selection=None if number else selection) for number, one in enumerate(listed)]
        analysis = Analysis(
            text=text_of.describe(sequences, sequence_length, loss_sequences),
            loss_precision=precision,
            tau=shares,
            collapsed_below=COLLAPSED_BELOW,
            models=[model for model, _ in measured],
        )
        if folder is None:
            return analysis
        analysis = _write(analysis, [drawings for _, drawings in measured], folder)
        drops_beside(folder).unlink(missing_ok=True)
        return analysis


def _measured(
    one: "str | Path | Reference | PreTrainedModel", *, text_of: "_Text", selection: Inherit | None,
    tokenizer: "PreTrainedTokenizerBase | None", dtype: str, sequences: int,
    sequence_length: int, micro_batch: int, precision: str, progress: Path | None, **more: Any,
) -> tuple[AnalyzedModel, tuple[torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """The figures of one model, and its two maps of attention, None where there are none."""
    began = time.monotonic()
    with ready(one, tokenizer, text_of.runtime.device, dtype) as (model, its):
        seconds = round(time.monotonic() - began, 3)
        check_positions(model.config, sequence_length, "--length")
        rows = text_of.rows("validation", its, model.config, sequences, sequence_length)
        name, path = title(one)
        figures, drawings = describe(model, rows, micro_batch=micro_batch, precision=precision, name=name, **more)
        chosen = None
        if selection is not None:
            options = {"micro_batch": micro_batch, "precision": precision, "progress": progress}
            chosen = text_of.choose(one, model, its, selection, **options)
        return AnalyzedModel.of(
            figures, name=name, path=path, parameters=parameter_count(model), prefix=list(rows.packing.prefix),
            selection=chosen, seconds={"load": seconds, **figures.seconds},
        ), drawings  # fmt: skip


def drops_beside(folder: Path) -> Path:
    """The file for the drops of an unfinished choice whose result will be written to `folder`."""
    return folder.with_name(f".{folder.name}.drops.json")


def choose(
    model: "str | Path | Reference | PreTrainedModel", spec: Inherit, *, text: str | Path | Sequence[str | Path] = (),
    data: str | Path | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto",
    dtype: str = "auto", micro_batch: int = 8, prefix: str = "auto", progress: Path | None = None,
) -> BlockChoice:  # fmt: skip
    """A measured choice of blocks on text, or on the training text of prepared data: see `choose_blocks`.

    `spec` has choose, layers and calibration; `progress` is that of `choose_blocks`; the other arguments are those of
    `analyze`. Raises InputError as `analyze` does.
    """
    paths = [text] if isinstance(text, str | Path) else list(text)
    _check_text(paths, data)
    runtime = rt.start(device)
    with ready(model, tokenizer, runtime.device, dtype) as (loaded, its):
        precision = _loss_precision(dtype, runtime)
        options = {"micro_batch": micro_batch, "precision": precision, "progress": progress}
        return _Text(paths, data, runtime, prefix).choose(model, loaded, its, spec, **options)


def _loss_precision(dtype: str, runtime: rt.Runtime) -> str:
    """The precision of products for losses: on a CPU the fastest one, unless the user names a dtype."""
    return runtime.quick_precision() if dtype == "auto" and runtime.device == "cpu" else "float32"


def _check(
    models: Sequence[Any], paths: Sequence[Any], data: Any, tau: Sequence[float], sequences: int, length: int,
    loss_sequences: int,
) -> None:  # fmt: skip
    if not models:
        raise InputError("models", "none given", "name one or several")
    _check_text(paths, data)
    check_tau(tau)
    for place, value in (("--sequences", sequences), ("--length", length), ("--loss-sequences", loss_sequences)):
        if value < 1:
            raise InputError(place, f"got {value}", "give 1 or more")


def _check_text(paths: Sequence[Any], data: Any) -> None:
    if bool(paths) == (data is not None):
        what = "both text and data" if paths else "none given"
        raise InputError("text", what, "give --text or --data, one of the two")


@dataclass(frozen=True)
class _Text:
    """Where sequences come from: text that each model's own tokenizer splits, or prepared data."""

    paths: Sequence[str | Path]
    data: str | Path | None
    runtime: rt.Runtime
    prefix: str

    def rows(
        self, split: str, tokenizer: "PreTrainedTokenizerBase | None", config: Any, count: int, length: int,
        or_fewer: bool = False,
    ) -> Rows:  # fmt: skip
        """`count` sequences of `length` predicted tokens; with `or_fewer` all of them where there are fewer."""
        check_prefix(self.prefix, "--prefix")
        if self.data is None:
            if tokenizer is None:
                raise InputError(
                    "tokenizer", "a loaded model comes without one", "give the tokenizer, or prepared data"
                )
            return sample_text(self.paths, tokenizer, count, length, or_fewer, self.prefix)
        prepared = open_data(self.data, self.runtime, config.vocab_size, tokenizer)
        if tokenizer is not None:
            check_tokenizer(prepared, tokenizer, str(self.data))
        check_vocabulary(prepared, config.vocab_size, str(self.data))
        if tokenizer is None and prepared.kept_tokenizer is not None:
            tokenizer = load_tokenizer(Reference(path=str(prepared.kept_tokenizer)))
        place = f"{self.data} ({split})"
        packing = replace(packing_of(prepared, tokenizer, prefix=self.prefix), long_conversations="truncate")
        return sample(Sequences(prepared.tokens(split), length, place, packing=packing), count, place, or_fewer)

    def describe(self, sequences: int, length: int, loss_sequences: int) -> AnalyzedText:
        """The description of the text in analysis.json."""
        return AnalyzedText(
            source=", ".join(str(path) for path in self.paths) if self.paths else f"{self.data} (validation)",
            sequences=sequences,
            sequence_length=length,
            loss_sequences=min(loss_sequences, sequences),
        )

    def choose(
        self, source: Any, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", spec: Inherit,
        **options: Any,
    ) -> BlockChoice:  # fmt: skip
        """A measured choice of blocks, on the training text of prepared data. `options` are for `choose_blocks`."""
        length = min(_CALIBRATION_LENGTH, position_count(model.config) or _CALIBRATION_LENGTH)
        count = sequences_wanted(spec, length, layer_count(model.config))
        rows = self.rows("train", tokenizer, model.config, count, length, or_fewer=True)
        trusted = isinstance(source, Reference) and source.trust_remote_code
        return choose_blocks(model, rows, spec, trust_remote_code=trusted, **options)


def _write(analysis: Analysis, drawings: Sequence[tuple[torch.Tensor, torch.Tensor] | None], folder: Path) -> Analysis:
    """Write maps, analysis.json and its page; the analysis with the names of the maps' files."""
    models = []
    with new_folder(folder) as filled:
        for number, (model, drawing) in enumerate(zip(analysis.models, drawings, strict=True)):
            if drawing is not None and model.maps is not None:
                name = f"maps-{number}.npz"
                np.savez_compressed(filled / name, potent=drawing[0].numpy(), lazy=drawing[1].numpy())
                model = model.model_copy(update={"maps": model.maps.model_copy(update={"file": name})})
            models.append(model)
        analysis = analysis.model_copy(update={"models": models})
        analysis.write(filled / "analysis.json")
        write_report(filled)
    return analysis
