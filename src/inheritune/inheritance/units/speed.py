"""How fast models of a shape generate and train on this machine, beside the reference. Random weights will do."""

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import build_random, position_count, resolve_dtype, title
from inheritune.errors import InputError
from inheritune.recipe import Work
from inheritune.results import MeasuredSpeed
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_PROMPT, _NEW = 8, 8  # tokens of a prompt, and tokens that are generated
_LENGTH = 64  # tokens of a sequence that is trained on
_TURNS = 3  # of reference and target
_MOST_TURNS = 7  # where fewer leave open whether the target is fast enough


class Pace:
    """Speeds of shapes beside the reference's, each measured once.

    `config` is the reference's. `device` is `cpu`, `cuda` or `mps`; None: the GPU where there is one. Numbers are
    bfloat16 on GPUs that have it, else float32.
    """

    def __init__(self, config: "PretrainedConfig", device: str | None = None, trust_remote_code: bool = False) -> None:
        self._config, self._trust = config, trust_remote_code
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = resolve_dtype("auto", self._device)
        self._reference: PreTrainedModel | None = None
        self._last: tuple[str, PreTrainedModel] | None = None
        self._refused = set[Work]()
        self._known: dict[tuple[str, Work], MeasuredSpeed] = {}
        self._rates: dict[Work, list[float]] = {"generation": [], "training": []}  # the reference's, of all turns

    @property
    def place(self) -> str:
        """What the speeds are of, for people: "cpu, 1 thread, float32"."""
        threads = torch.get_num_threads()
        number = f"{threads} thread{'' if threads == 1 else 's'}"
        return ", ".join([self._device, *([number] if self._device == "cpu" else []), self._dtype])

    def find(self, config: "PretrainedConfig", work: Work) -> MeasuredSpeed | None:
        """As `measure`; None for work that cannot be measured, which the log says once."""
        if work in self._refused:
            return None
        try:
            return self.measure(config, work)
        except InputError as error:
            self._refused.add(work)
            logger.info(f"speed of {work}: {error}")
            return None

    def own(self, work: Work) -> MeasuredSpeed | None:
        """The reference's speed, over all its turns; None before there was one."""
        rates = self._rates[work]
        if not rates:
            return None
        usual = median(rates)
        return MeasuredSpeed(rate=usual, times=1.0, lowest=min(rates) / usual, highest=max(rates) / usual)

    def measure(self, config: "PretrainedConfig", work: Work, times: float | None = None) -> MeasuredSpeed:
        """The speed of a model of `config` at this work.

        With `times` there are more turns where the first leave open whether it is so many times as fast as the
        reference. Raises InputError for a model that generates without the usual cache.
        """
        name = config.to_json_string(use_diff=False)
        if (name, work) not in self._known:
            self._known[name, work] = self._measured(self._model(name, config), work, times)
        return self._known[name, work]

    def release(self) -> None:
        """Free the memory of the models. What was measured stays known."""
        self._reference, self._last = None, None

    def _measured(self, target: "PreTrainedModel", work: Work, times: float | None) -> MeasuredSpeed:
        if self._reference is None:
            self._reference = self._build(self._config)
        if not self._rates[work]:
            self._rate(self._reference, work)
        self._rate(target, work)  # the first time takes longer
        rates, ratios = list[float](), list[float]()
        for turn in range(1, _MOST_TURNS + 1):
            whole, own = self._rate(self._reference, work), self._rate(target, work)
            self._rates[work].append(whole)
            rates.append(own)
            ratios.append(own / whole)
            is_clear = times is None or not min(ratios) <= times <= max(ratios)
            if turn >= _TURNS and is_clear:
                break
        return MeasuredSpeed(rate=median(rates), times=median(ratios), lowest=min(ratios), highest=max(ratios))

    def _model(self, name: str, config: "PretrainedConfig") -> "PreTrainedModel":
        if self._last is None or self._last[0] != name:
            self._last = None  # so that its memory is free
            self._last = (name, self._build(config))
        return self._last[1]

    def _build(self, config: "PretrainedConfig") -> "PreTrainedModel":
        model = build_random(config, 1, getattr(torch, self._dtype), self._trust)
        return model.to(self._device).eval()

    def _rate(self, model: "PreTrainedModel", work: Work) -> float:
        """Tokens a second, of one turn."""
        positions = position_count(model.config) or _LENGTH
        count = min(_LENGTH if work == "training" else _PROMPT, positions)
        draw = torch.Generator().manual_seed(0)
        tokens_BT = torch.randint(0, model.config.vocab_size, (1, count), generator=draw).to(self._device)
        began = self._now()
        if work == "training":
            _train(model, tokens_BT)
            return count / (self._now() - began)
        new = max(1, min(_NEW, positions - count))
        _generate(model, tokens_BT, new)
        return new / (self._now() - began)

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        elif self._device == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def _generate(model: "PreTrainedModel", tokens_BT: torch.Tensor, new: int) -> None:
    """Continue a prompt greedily, a token at a time, with the cache."""
    cache = None
    with torch.inference_mode():
        for _ in range(new):
            outputs: Any = model(input_ids=tokens_BT, past_key_values=cache, use_cache=True)
            cache = getattr(outputs, "past_key_values", None)
            if cache is None:
                what = "its code keeps no past_key_values, so its generation cannot be measured"
                raise InputError(title(model)[0], what, "ask for a speed of training, or for a size")
            tokens_BT = outputs.logits[:, -1:].argmax(-1)


def _train(model: "PreTrainedModel", tokens_BT: torch.Tensor) -> None:
    """Forward and backward on one sequence."""
    model.train()
    logits_BTV: Any = model(input_ids=tokens_BT, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV[0, :-1].float(), tokens_BT[0, 1:])
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.eval()
