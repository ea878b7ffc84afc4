"""Races of candidates against the comparison of all of them on all text, and what a search shows while it works."""

import io
from typing import Any

import pytest
import torch
from forward import VOCABULARY, as_rows, randomised, some_tokens
from rich.console import Console
from test_order import anything, found, until
from transformers import LlamaConfig, LlamaForCausalLM

from inheritune.analysis import Trials
from inheritune.analysis import pace as pace_module
from inheritune.analysis.order import seams_made, search
from inheritune.analysis.pace import Pace
from inheritune.analysis.progress import Progress
from inheritune.analysis.race import Runner, finish
from inheritune.runlog import LiveLine

TOKENS = 320  # of a part: ten stretches


class Noisy:
    """Trials of candidates whose rises are normal around their means, with a part of the noise in common."""

    def __init__(self, means: list[float], parts: int, seed: int, noise: float = 0.3) -> None:
        self.means, self.parts, self.runs = means, parts, [0] * len(means)
        generator = torch.Generator().manual_seed(seed)
        common_PS = 2 * torch.randn(parts, TOKENS, generator=generator)
        self.rises_BPS = common_PS + noise * torch.randn(len(means), parts, TOKENS, generator=generator)
        self.rises_BPS += torch.tensor(means)[:, None, None]

    def rises(self, block: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert part == self.runs[block]  # each part once, in order
        self.runs[block] += 1
        return self.rises_BPS[block, part], self.rises_BPS[block, part] + 1

    def race(self) -> Runner:
        runners = [Runner(block, 1.0) for block in range(len(self.means))]
        for one in runners:
            one.run(self, 0)  # type: ignore[arg-type]
        return finish(self, runners, lambda: None)  # type: ignore[arg-type]


def test_clear_candidates_leave_early_and_the_winner_is_that_of_all_the_text() -> None:
    same, runs, seeds = 0, 0, 60
    for seed in range(seeds):
        trials = Noisy([1.0, 1.02, 1.05, 1.3, 1.5, 2.0, 3.0, 4.0], 6, seed)
        winner = trials.race()
        same += winner.block == int(trials.rises_BPS.mean((1, 2)).argmin())
        runs += sum(trials.runs)
        assert trials.runs[4:] == [1, 1, 1, 1]
        seen = trials.rises_BPS[winner.block, : trials.runs[winner.block]].double()
        assert winner.increase == pytest.approx(float(seen.mean()), abs=1e-5)
        assert float(winner.over_whole.mean()) == pytest.approx(winner.increase + 1, abs=1e-5)
    assert same >= seeds - 2
    assert runs < seeds * 8 * 6 / 2


def test_equal_candidates_run_on_all_the_text_and_the_first_wins() -> None:
    trials = Noisy([1.0, 1.0, 9.0], 4, seed=0, noise=0.0)
    assert trials.race().block == 0
    assert trials.runs == [4, 4, 1]


def test_a_loss_that_is_not_a_number_never_wins() -> None:
    trials = Noisy([float("nan"), 1.0], 2, seed=0)
    assert trials.race().block == 1


def test_seams_count_in_a_race() -> None:
    cheap, dear = Runner(0, 1.5), Runner(1, 1.0)
    cheap.rises, dear.rises = torch.full((TOKENS,), 1.0), torch.full((TOKENS,), 1.4)
    assert (cheap.counted(), dear.counted()) == pytest.approx((1.5, 1.4))
    assert cheap.is_behind(dear)
    assert not dear.is_behind(cheap)
    cheap.rises, dear.rises = -cheap.rises, -dear.rises
    assert (cheap.counted(), dear.counted()) == pytest.approx((-0.5, -1.4))


def deep(blocks: int = 8) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=blocks, max_position_embeddings=64, **sizes)
    model = randomised(LlamaForCausalLM(config))
    for at, layer in enumerate(model.model.layers):  # so that blocks are worth different things
        for weight in (layer.mlp.down_proj.weight, layer.self_attn.o_proj.weight):
            weight.data *= 0.1 + 0.4 * ((3 * at) % blocks)
    return model


def test_in_parts_a_model_loses_blocks_that_are_hardly_worse_than_the_best_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tokens_BT = deep(), some_tokens(24, 61)
    whole, parts = (Trials(model, as_rows(tokens_BT), micro_batch=size) for size in (24, 6))
    assert (whole.parts, parts.parts) == (1, 4)
    runs: list[int] = []
    own, progress = parts.rises, Progress()
    monkeypatch.setattr(parts, "rises", lambda block, part: (runs.append(block), own(block, part))[1])
    order = search(parts, until(3), anything, progress)
    assert progress.trials < len(runs) < 4 * progress.trials
    for one in order:
        counted = {}
        for block in whole.kept:
            rise = float((whole.without(block) - whole.losses).mean())
            seams = 0.5 * seams_made(block, whole.kept, 8)
            counted[block] = rise * (1 + (seams if rise > 0 else -seams))
        assert counted[one.block] <= min(counted.values()) + 0.03
        whole.drop(one.block)
        assert one.loss == pytest.approx(float(whole.losses.mean()), abs=0.1)  # from a part of the text
    assert parts.losses.tolist() == pytest.approx(whole.losses.tolist(), abs=1e-4)


def test_a_search_that_resumes_in_the_middle_races_on_as_it_would_have() -> None:
    model, tokens_BT = deep(), some_tokens(24, 61)
    straight = Progress()
    search(Trials(model, as_rows(tokens_BT), micro_batch=6), until(3), anything, straight)
    for count in (1, 3):
        begun = Progress()
        search(Trials(model, as_rows(tokens_BT), micro_batch=6), until(8 - count), anything, begun)
        assert len(begun.drops) == count
        search(Trials(model, as_rows(tokens_BT), micro_batch=6), until(3), anything, begun)
        assert begun.drops == straight.drops
        assert (begun.promises, begun.trials) == (straight.promises, straight.trials)


def test_a_search_shows_drops_time_and_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    found(Trials(deep(4), as_rows(some_tokens(3, 11))), 2)
    shown = [message for message in caplog.messages if not message.startswith("dropped")]
    assert len(shown) == 1  # no terminal, and less than 15 seconds: the last one alone
    assert shown[0].startswith("choosing blocks  2/2  drops, 0 s so far  about 0 s left")


def test_the_time_left_is_that_of_the_latest_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now)
    lines: list[str] = []
    line = LiveLine("choosing", 9, 0)
    monkeypatch.setattr(line, "update", lambda done, figures, left: lines.append(f"{done} {figures} {left}"))
    progress = Progress(began=now)
    pace = Pace(line, progress, 9, usual=8)
    pace.begin()
    assert lines == ["0 drops, 0 s so far time left: known after the next drop"]
    now, progress.trials = 160.0, 24  # three times as many as usual, in 60 s
    pace.searched()
    progress.drops.append(None)  # type: ignore[arg-type]
    now = 170.0
    pace.recovered()
    pace.begin()
    assert lines[-1] == "1 drops, 1 min 10 s so far about 4 min 0 s left"  # eight times 20 and 10
    now = 175.0
    pace.show()
    assert lines[-1] == "1 drops, 1 min 15 s so far about 3 min 55 s left"
    for _ in range(3):
        progress.trials += 8
        now += 3.0
        pace.searched()
        progress.drops.append(None)  # type: ignore[arg-type]
        now += 2.0
        pace.recovered()
        pace.begin()
    assert lines[-1] == "4 drops, 1 min 30 s so far about 33 s left"  # five times the mean of 10, 5 and 5


def test_a_terminal_shows_the_time_left_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from inheritune.runlog import logger, terminal

    handler = terminal.TerminalHandler()
    shown = io.StringIO()
    handler.console = Console(file=shown, force_terminal=True, color_system=None, width=120)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", 20)
    with LiveLine("choosing blocks", 15, 3) as line:
        line.update(4, "drops, 83 s so far", "about 120 s left")
    assert "4/15  drops, 83 s so far about 120 s left" in shown.getvalue()
