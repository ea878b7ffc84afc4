"""`analyze`: models on text, their figures in analysis.json and a page to look at."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.analysis.choice import choose_blocks, sequences_wanted
from inheritune.analysis.figures import Figures, describe
from inheritune.analysis.measures import COLLAPSED_BELOW
from inheritune.analysis.rank import check_tau
from inheritune.arch import check_positions, layer_count, load_tokenizer, parameter_count, ready, title
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
from inheritune.report import write_analysis
from inheritune.runlog import new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
_CALIBRATION_LENGTH = 256


def analyze(
    models: "str | Path | Reference | PreTrainedModel | Sequence[str | Path | Reference | PreTrainedModel]", *,
    text: str | Path | Sequence[str | Path] = (), data: str | Path | None = None, sequences: int = 100,
    sequence_length: int = 100, tau: float | Sequence[float] = 0.9, loss_sequences: int = 8,
    selection: Inherit | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto",
    dtype: str = "auto", micro_batch: int = 8, prefix: str = "auto", out: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:  # fmt: skip
    """What the heads and blocks of one or several decoders do on text, as plain data (docs/analysis.md has every key).

    `text` are files, folders, patterns or addresses, or `data` is a folder that `prepare` wrote, whose validation text
    is taken. Attention is looked at on `sequences` sequences of `sequence_length` tokens, spread evenly over the text;
    losses on the first `loss_sequences` of them. `tau` is the share of the squared norm that ranks hold, or several.
    With `selection` its blocks are chosen from the first model, seen on training text where `data` is given. Models are
    moved to `device` in `dtype`; a loaded one stays as it was. auto: bfloat16 on a GPU; on a CPU float32, but products
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
        found: Figures = {
            "format": FORMAT,
            "text": text_of.describe(sequences, sequence_length, loss_sequences),
            "loss_precision": precision,
            "tau": shares,
            "collapsed_below": COLLAPSED_BELOW,
            "models": [],
        }
        drawings: list[Any] = []
        looking = partial(
            _figures_of, text_of=text_of, tokenizer=tokenizer, dtype=dtype, say=say, sequences=sequences,
            sequence_length=sequence_length, micro_batch=micro_batch, precision=precision, tau=shares,
            loss_sequences=loss_sequences, progress=None if folder is None else drops_beside(folder),
        )  # fmt: skip
        for number, one in enumerate(listed):
            figures, drawing = looking(one, selection=selection if number == 0 else None)
            found["models"].append(figures)
            drawings.append(drawing)
        if folder is not None:
            _write(found, drawings, folder)
            drops_beside(folder).unlink(missing_ok=True)
        return found


def _figures_of(
    one: "str | Path | Reference | PreTrainedModel", *, text_of: "_Text", selection: Inherit | None,
    tokenizer: "PreTrainedTokenizerBase | None", dtype: str, say: Callable[[str], None], sequences: int,
    sequence_length: int, micro_batch: int, precision: str, progress: Path | None, **more: Any,
) -> tuple[Figures, Any]:  # fmt: skip
    """What analysis.json says of one model, and its two maps of attention, None where there are none."""
    began = time.monotonic()
    with ready(one, tokenizer, text_of.runtime.device, dtype) as (model, its):
        seconds = round(time.monotonic() - began, 3)
        check_positions(model.config, sequence_length, "--length")
        rows = text_of.rows("validation", its, model.config, sequences, sequence_length)
        name, path = title(one)
        told = partial(_say, say, name)
        figures = describe(model, rows, micro_batch=micro_batch, precision=precision, say=told, **more)
        drawn = figures["maps"]
        drawing = drawn and [drawn[kind].pop("attention") for kind in ("potent", "lazy")]
        figures["prefix"], figures["selection"] = list(rows.packing.prefix), None
        if selection is not None:
            rows = text_of.calibration(its, model.config, selection)
            figures["selection"] = choose_blocks(
                model, rows, selection, micro_batch=micro_batch, precision=precision, say=say,
                trust_remote_code=_trusted(one), progress=progress,
            )  # fmt: skip
        figures["seconds"] = {"load": seconds, **figures["seconds"]}
        return {"name": name, "path": path, "parameters": parameter_count(model), **figures}, drawing


def drops_beside(folder: Path) -> Path:
    """Where the drops of an unfinished choice are kept whose result will be written to `folder`."""
    return folder.with_name(f".{folder.name}.drops.json")


def choose(
    model: "str | Path | Reference | PreTrainedModel", spec: Inherit, *, text: str | Path | Sequence[str | Path] = (),
    data: str | Path | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto",
    dtype: str = "auto", micro_batch: int = 8, prefix: str = "auto", say: Callable[[str], None] = lambda _: None,
    progress: Path | None = None,
) -> Figures:  # fmt: skip
    """A measured choice on text, or on the training text of prepared data: see `choose_blocks` for what comes out.

    `spec` has choose, layers and calibration; `progress` is that of `choose_blocks`; the other arguments are those of
    `analyze`. Raises InputError as that.
    """
    paths = [text] if isinstance(text, str | Path) else list(text)
    _check_text(paths, data)
    runtime = rt.start(device)
    with ready(model, tokenizer, runtime.device, dtype) as (loaded, its):
        rows = _Text(paths, data, runtime, prefix).calibration(its, loaded.config, spec)
        return choose_blocks(
            loaded, rows, spec, micro_batch=micro_batch, precision=_loss_precision(dtype, runtime), say=say,
            trust_remote_code=_trusted(model), progress=progress,
        )  # fmt: skip


def _loss_precision(dtype: str, runtime: rt.Runtime) -> str:
    """What products for losses are in; a model in bfloat16 leaves nothing to choose."""
    return runtime.quick_precision() if dtype == "auto" and runtime.device == "cpu" else "float32"


def _trusted(model: Any) -> bool:
    return isinstance(model, Reference) and model.trust_remote_code


def _say(say: Callable[[str], None], name: str, line: str) -> None:
    say(f"{name}: {line}")


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
    prefix: str = "auto"

    def rows(
        self, split: str, tokenizer: "PreTrainedTokenizerBase | None", config: Any, count: int, length: int,
        or_fewer: bool = False,
    ) -> Rows:  # fmt: skip
        """`count` sequences of `length` predicted tokens; `or_fewer`: all where there are fewer."""
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
        packing = packing_of(prepared, tokenizer, prefix=self.prefix)
        return sample(Sequences(prepared.tokens(split), length, place, packing=packing), count, place, or_fewer)

    def describe(self, sequences: int, length: int, loss_sequences: int) -> Figures:
        """What analysis.json says of the text that is looked at."""
        return {
            "source": ", ".join(str(path) for path in self.paths) if self.paths else f"{self.data} (validation)",
            "sequences": sequences,
            "sequence_length": length,
            "loss_sequences": min(loss_sequences, sequences),
        }

    def calibration(self, tokenizer: "PreTrainedTokenizerBase | None", config: Any, spec: Inherit) -> Rows:
        """What a measured choice sees: of prepared data the training text."""
        length = _calibration_length(config)
        count = sequences_wanted(spec, length, layer_count(config))
        return self.rows("train", tokenizer, config, count, length, or_fewer=True)


def _calibration_length(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    return min(_CALIBRATION_LENGTH, positions) if isinstance(positions, int) and positions > 0 else _CALIBRATION_LENGTH


def _write(found: Figures, drawings: Sequence[Any], folder: Path) -> None:
    import numpy as np

    with new_folder(folder) as filled:
        for number, (figures, drawing) in enumerate(zip(found["models"], drawings, strict=True)):
            if drawing is not None:
                figures["maps"]["file"] = f"maps-{number}.npz"
                np.savez_compressed(filled / f"maps-{number}.npz", potent=drawing[0].numpy(), lazy=drawing[1].numpy())
        write_json(filled / "analysis.json", found)
        write_analysis(filled)
