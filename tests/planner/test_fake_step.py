"""What a fake step takes, against what real ones keep."""

from typing import Any

import pytest
import torch
from tiny_families import FAMILIES, some_tokens
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from inheritune.arch import find_structure, silence_libraries
from inheritune.planner import ModelProfile
from inheritune.planner.fake_step import FakeStep


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


def really_kept(config: PretrainedConfig, precision: str, batch: int, length: int) -> int:
    """Bytes of all memory that autograd keeps of a real forward up to the last block, without the weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def sum_up(_: Any, __: Any, output: Any) -> None:
        hidden = output if torch.is_tensor(output) else output[0]
        kept[hidden.untyped_storage().data_ptr()] = hidden  # which the norm behind it keeps
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))

    last = model.get_submodule(find_structure(model).blocks)[-1]
    last.register_forward_hook(sum_up)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32"),
    ):
        model(input_ids=some_tokens(batch, length), use_cache=False)
    return sizes[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kind",
    ["llama", "gpt2", "gemma2", "qwen3", "mixtral", "falcon", "opt", pytest.param("mamba", marks=pytest.mark.long)],
)
def test_what_is_kept_is_what_autograd_keeps(kind: str, precision: str) -> None:
    config: PretrainedConfig = CONFIG_MAPPING[kind](**FAMILIES[kind].fields)
    profile = ModelProfile(config)
    use = profile.use(precision, False, 2, 32)
    assert use is not None, profile.unfollowed
    found = use.outside.kept + use.outside.casts
    found += sum(use.blocks[kind].kept + use.blocks[kind].casts for kind in profile.kinds)
    # autocast's copies of biases live until the backward pass, though autograd does not keep them
    assert found == pytest.approx(really_kept(config, precision, 2, 32), rel=0.05 if precision == "float32" else 0.07)


def test_one_of_each_kind_stands_for_all() -> None:
    config = CONFIG_MAPPING["gemma3_text"](**FAMILIES["gemma3_text"].fields)
    every = FakeStep(config, [0, 1, 2, 3]).run(2, 16, "bfloat16")
    some = FakeStep(config, [0, 1, 1, 0]).run(2, 16, "bfloat16")
    assert list(some.blocks) == [0, 1]
    assert [every.blocks[at] for at in (0, 1, 2, 3)] == [some.blocks[at] for at in (0, 1, 1, 0)]
    assert every.outside == some.outside


def test_a_llama_by_hand() -> None:
    """docs/training.md counts by hand: a block keeps 34 D + 8 F bytes a token in bfloat16, 24 D + 8 F with FSDP; there
    autograd keeps 2 D more, what a norm has before it is scaled.
    """
    hidden, mlp, length = 640, 1728, 256
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=2, num_attention_heads=8, vocab_size=1000
    )
    profile = ModelProfile(config)
    for sharded, each in ((False, 34), (True, 26)):
        use = profile.use("bfloat16", sharded, 2, length)
        assert use is not None
        assert use.blocks[0].kept == pytest.approx(2 * length * (each * hidden + 8 * mlp), rel=0.01)
        assert use.blocks[0].casts == (0 if sharded else 2 * (4 * hidden**2 + 3 * hidden * mlp))
        assert use.blocks[0].passed == 2 * length * hidden * (2 if sharded else 4)


def test_logits_by_hand() -> None:
    """The loss holds float32 log-probabilities, their gradient, and the logits' gradient at once."""
    vocabulary, tokens = 8000, 2 * 64
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=vocabulary
    )
    use = ModelProfile(config).use("float32", False, 2, 64)
    assert use is not None
    assert use.logits == pytest.approx(12 * vocabulary * tokens, rel=0.02)


def test_code_that_asks_for_values_is_said() -> None:
    config = CONFIG_MAPPING["jetmoe"](
        num_hidden_layers=2, hidden_size=32, kv_channels=8, intermediate_size=16, vocab_size=67, num_local_experts=4
    )
    profile = ModelProfile(config)
    assert profile.use("float32", False, 1, 8) is None
    assert profile.unfollowed is not None
    assert "split_with_sizes" in profile.unfollowed
