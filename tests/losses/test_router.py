"""The router loss of mixtures of experts against the loss that transformers itself returns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import reference_of
from tiny_families import some_tokens
from transformers import MixtralConfig, MixtralForCausalLM

import inheritune
from inheritune.arch import find_router_loss, router_loss_of, split_head
from inheritune.data import batch_numbers, open_prepared
from inheritune.errors import InputError
from inheritune.losses import CrossEntropy, Loss, RouterBalance
from inheritune.training import Objective


def losses_with(router: Any) -> list[Loss]:
    return [CrossEntropy(), RouterBalance(router)]


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss", "jetmoe", "olmoe", "granitemoe", "dbrx", "jamba"])
@pytest.mark.parametrize("whole", [False, True])
def test_loss_and_gradients_are_those_of_transformers(kind: str, whole: bool) -> None:
    model = reference_of(kind)
    router, tokens_BT = find_router_loss(model), some_tokens(3, 13)
    assert router is not None
    assert router.weight > 0
    seen = model(input_ids=tokens_BT, labels=tokens_BT, output_router_logits=True, use_cache=False)
    model.zero_grad()
    objective = Objective(model, None if whole else split_head(model), losses_with(router))
    assert objective.terms == ("cross_entropy", "router")
    # as training gives it: every input but the last predicts, and the last is seen too
    targets = torch.nn.functional.pad(tokens_BT[:, 1:], (0, 1), value=-100)
    masked = torch.ones_like(tokens_BT)
    loss, entropy, term = objective(tokens_BT, targets) / 36
    assert entropy.item() == pytest.approx((seen.loss - router.weight * seen.aux_loss).item(), rel=1e-5)
    assert router(seen.router_logits, masked).item() == pytest.approx(seen.aux_loss.item(), rel=1e-5)
    # the last position predicts nothing, so its expert does not count
    seen_once = model(input_ids=tokens_BT[:, :-1], output_router_logits=True, use_cache=False)
    assert term.item() == pytest.approx(seen_once.aux_loss.item(), rel=1e-5)
    assert loss.item() == pytest.approx((entropy + router.weight * term).item(), rel=1e-6)
    loss.backward()
    found = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    (seen.loss - router.weight * seen.aux_loss + router.weight * seen_once.aux_loss).backward()
    for one, gradient in zip(model.parameters(), found, strict=True):
        if gradient is not None:
            assert one.grad is not None
            assert torch.allclose(one.grad, gradient, atol=1e-6 + 1e-4 * gradient.abs().max().item())


def test_rows_that_fill_up_and_padding_do_not_count() -> None:
    model = reference_of("mixtral")
    router, tokens_BT = find_router_loss(model), some_tokens(4, 9)
    objective = Objective(model, split_head(model), losses_with(router))
    targets = tokens_BT.roll(-1, 1)
    alone = objective(tokens_BT[:2, :6], targets[:2, :6])
    targets[2:] = -100
    targets[:, 6:] = -100
    assert objective(tokens_BT, targets).tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_a_micro_batch_in_which_nothing_counts_adds_nothing() -> None:
    """As on a process that has no sequence of a batch left."""
    model = reference_of("mixtral")
    objective = Objective(model, split_head(model), losses_with(find_router_loss(model)))
    tokens_BT = some_tokens(2, 9)
    found = objective(tokens_BT, torch.full_like(tokens_BT, -100))
    found[0].backward()
    assert found.tolist() == [0.0, 0.0, 0.0]
    assert all(one.grad is None or bool((one.grad == 0).all()) for one in model.parameters())


def test_models_without_one_have_none_and_it_is_an_error_to_ask(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    for kind in ("llama", "deepseek_v3"):
        model = reference_of(kind)
        assert find_router_loss(model) is None
        assert router_loss_of(model, "auto", "round 1") is None
        with pytest.raises(InputError, match=r"^round 1: train.router_loss: true, but \w+ computes no router loss"):
            router_loss_of(model, True, "round 1")
    assert not caplog.messages


@pytest.mark.parametrize(("factor", "taken"), [(1.0, True), (1.01, False)])
def test_a_model_whose_own_term_is_another_has_none(factor: float, taken: bool) -> None:
    """The term is computed here as most models compute it; one that scales its own would be trained on another loss."""
    model = reference_of("mixtral")
    plain = model.forward

    def scaled(*args: Any, **words: Any) -> Any:
        seen = plain(*args, **words)
        seen.aux_loss = factor * seen.aux_loss
        return seen

    model.forward = scaled
    assert (find_router_loss(model) is not None) == taken


@pytest.mark.parametrize(("by_config", "wanted", "added"), [
    (True, "auto", True), (False, "auto", False), (False, True, True), (True, False, False),
])  # fmt: skip
def test_the_config_decides_unless_the_recipe_does(
    by_config: bool, wanted: Any, added: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    model = reference_of("mixtral")
    model.config.output_router_logits = by_config
    found = router_loss_of(model, wanted, "round 1")
    assert (found is not None) == added
    if wanted is not False:
        assert ("is added with the weight" if added else "train.router_loss: true adds it") in caplog.messages[0]


def test_a_training_follows_the_config_and_records_the_term(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64, output_router_logits=True,
        router_aux_loss_coef=0.5, bos_token_id=0, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    settings = {"length": "1 steps", "batch": "4 sequences", "sequence_length": 16, "precision": "float32"}
    inheritune.train(model, tmp_path / "data", tmp_path / "out", settings=settings, tokenizer=tokenizer, device="cpu")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    record = next(one for one in map(json.loads, lines) if "loss" in one)
    stream = open_prepared(tmp_path / "data").tokens("train").read().tolist()
    count = (len(stream) - 1) // 16
    rows = torch.tensor([stream[at * 16 : at * 16 + 17] for at in batch_numbers(0, 4, count, 1)])
    with torch.no_grad():
        seen = model.eval()(input_ids=rows[:, :-1], labels=rows[:, :-1], shift_labels=rows[:, 1:].contiguous())
    assert record["router"] == pytest.approx(seen.aux_loss.item(), rel=1e-5)
    assert record["loss"] == pytest.approx(seen.loss.item(), rel=1e-5)
    assert record["loss"] == pytest.approx(record["cross_entropy"] + 0.5 * record["router"], rel=1e-5)
