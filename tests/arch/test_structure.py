from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from inheritune.arch import (
    Structure,
    check_cache,
    check_decoder,
    check_movable,
    differences,
    find_structure,
    layer_count,
    shorten,
)
from inheritune.arch.structure import check_kv_sources, decoder_config
from inheritune.errors import InputError

KINDS = ["sliding_attention", "full_attention"]


def config(kind: str, **fields: Any) -> Any:
    return CONFIG_MAPPING[kind](**fields)


class TestDecoder:
    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("t5", "t5 is an encoder-decoder"),
            ("bart", "bart is an encoder-decoder"),
            ("bert", "bert is an encoder"),
            ("roberta", "roberta is an encoder"),
            ("bert-generation", "bert-generation is an encoder"),
            ("distilbert", "'distilbert' has no causal language model"),
            ("vit", "'vit' has no causal language model"),
            ("llava", "llava wraps a text model of type llama in a larger one"),
        ],
    )
    def test_what_is_none_is_refused_with_the_reason(self, kind: str, said: str) -> None:
        with pytest.raises(InputError, match=said) as caught:
            check_decoder(config(kind))
        assert "decoder" in caught.value.problems[0].remedy

    # gpt_neox says is_decoder: false and is a decoder all the same
    @pytest.mark.parametrize(
        "kind", ["gpt2", "llama", "gpt_neox", "opt", "bloom", "mamba", "gemma3_text", "openai-gpt"]
    )
    def test_decoders_are_accepted(self, kind: str) -> None:
        check_decoder(config(kind))

    def test_an_encoder_s_class_used_as_a_decoder_is_accepted(self) -> None:
        check_decoder(config("bert", is_decoder=True))

    def test_layers_must_be_declared(self) -> None:
        found = config("gpt2", n_layer=3)
        assert layer_count(found) == 3
        for wrong in (0, None):
            object.__setattr__(found, "n_layer", wrong)
            with pytest.raises(InputError, match="how many blocks"):
                layer_count(found)


class Made(nn.Module):
    """A model with the lists of modules that a test gives it."""

    def __init__(self, count: int, **lists: nn.Module) -> None:
        super().__init__()
        self.config = config("gpt2", n_layer=count)
        for name, module in lists.items():
            self.add_module(name, module)


def linears(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(1, 1) for _ in range(count))


class TestBlocks:
    def test_the_outermost_list_of_that_length_is_taken(self) -> None:
        """Experts inside a block can be as many as there are blocks."""
        block = nn.ModuleDict({"experts": linears(2)})
        model = Made(2, layers=nn.ModuleList([block, block]), others=linears(3))
        assert find_structure(model) == Structure("layers", 2)  # type: ignore[arg-type]

    def test_a_list_without_parameters_is_none_of_blocks(self) -> None:
        model = Made(2, layers=linears(2), rotations=nn.ModuleList([nn.Identity(), nn.Identity()]))
        assert find_structure(model) == Structure("layers", 2)  # type: ignore[arg-type]

    def test_a_list_of_single_matrices_is_none_of_blocks(self) -> None:
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(1, 1)) for _ in range(2))
        assert find_structure(Made(2, layers=blocks, projections=linears(2))) == Structure("layers", 2)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("lists", "said"),
        [({"layers": 3}, "there are: none"), ({"left": 2, "right": 2}, "there are: left and right")],
    )
    def test_none_or_several_are_refused(self, lists: dict[str, int], said: str) -> None:
        with pytest.raises(InputError, match=f"2 blocks are not in one list of modules.*{said}"):
            find_structure(Made(2, **{name: linears(count) for name, count in lists.items()}))  # type: ignore[arg-type]

    def test_a_model_that_mixes_its_blocks_is_refused(self) -> None:
        """XLM keeps attentions, norms and feed-forwards in lists of their own."""
        sizes = {"vocab_size": 20, "emb_dim": 8, "n_layers": 2, "n_heads": 2, "is_decoder": True}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config("xlm", **sizes))
        with pytest.raises(InputError, match="not in one list"):
            find_structure(model)

    def test_names_are_taken_apart_and_put_together(self) -> None:
        structure = Structure("model.layers", 12)
        assert structure.name_in(11, "mlp.weight") == "model.layers.11.mlp.weight"
        assert structure.split("model.layers.11.mlp.weight") == (11, "mlp.weight")
        assert structure.split("model.norm.weight") is None
        assert structure.split("model.layers_extra.0.weight") is None


class TestMovable:
    @pytest.mark.parametrize("kept", [[0], [0, 1], [0, 1, 2, 3]])
    def test_a_prefix_always_is(self, kept: list[int]) -> None:
        check_movable(config("gpt2", n_layer=4, scale_attn_by_inverse_layer_idx=True), kept)

    @pytest.mark.parametrize("kept", [[1], [0, 2], [1, 2]])
    def test_others_are_where_no_field_forbids_it(self, kept: list[int]) -> None:
        check_movable(config("gpt2", n_layer=4), kept)
        kinds = ["linear_attention", "hybrid"] * 2
        with pytest.raises(InputError, match=r"hybrid_layer_ids is \[1, 3\].*choose: first"):
            check_movable(config("zamba2", num_hidden_layers=4, layers_block_type=kinds), kept)

    def test_a_borrower_needs_its_lender(self) -> None:
        sharing = config("gemma4_text", num_hidden_layers=4, layer_types=[*KINDS, *KINDS], num_kv_shared_layers=2)
        for kept in ([0, 2], [1, 3], [0, 1], [0, 1, 2, 3]):
            check_movable(sharing, kept)
        for kept in ([0, 3], [2], [1, 2, 3]):
            with pytest.raises(InputError, match=r"block [23]: uses what block [01] has computed.*; choose block"):
                check_movable(sharing, kept)

    def test_a_lender_must_be_the_same_one(self) -> None:
        """Of three blocks with tokens of their own and one that shares, the nearest lends."""
        kinds = ["full", "full", "shared", "full"]
        long = config("hy_v4", num_hidden_layers=4, indexer_types=kinds)
        check_kv_sources(long, shorten(long, [1, 2]), [1, 2])
        with pytest.raises(InputError, match="block 2: uses what block 1 has computed, and would use block 0"):
            check_kv_sources(long, shorten(long, [0, 2]), [0, 2])

    def test_what_transformers_cannot_build_is_said(self) -> None:
        with pytest.raises(InputError, match="fewer than 2 blocks"):
            check_movable(config("rwkv", num_hidden_layers=4), [0])


class TestTextPart:
    @pytest.mark.parametrize(
        ("kind", "part"), [("llama4", "llama4_text"), ("gemma3", "gemma3_text"), ("llava", "llama")]
    )
    def test_of_a_composite_the_text_part_is_taken(self, kind: str, part: str) -> None:
        whole = config(kind)
        whole.tie_word_embeddings = True
        found = decoder_config(whole)
        assert found.model_type == part
        assert found.tie_word_embeddings or kind == "llama4"  # which transformers makes with the text's own field

    def test_a_decoder_is_itself(self) -> None:
        plain = config("llama")
        assert decoder_config(plain) is plain

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("emu3", "wraps a text model of type emu3_text_model"),
            ("musicgen", "encoder-decoder"),
            ("bert", "is an encoder here"),
        ],
    )
    def test_what_it_does_not_is_refused(self, kind: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            decoder_config(config(kind))


def test_a_part_must_run_with_a_cache_where_the_whole_does() -> None:
    hybrid = config("lfm2", num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2)
    check_cache(hybrid, shorten(hybrid, [0, 1]))
    with pytest.raises(InputError, match=r"none of the 2 blocks"):
        check_cache(hybrid, shorten(hybrid, [0, 2]))
    mamba = config("mamba", num_hidden_layers=4)  # has another kind of cache altogether
    check_cache(mamba, shorten(mamba, [0]))


class Block(nn.Module):
    def __init__(self, number: int, scale: float = 1.0, bias: bool = True, width: int = 2) -> None:
        super().__init__()
        self.layer_idx = number
        self.scale = scale
        self.linear = nn.Linear(2, width, bias=bias)


class TestDifferences:
    def test_place_mode_and_weights_are_none(self) -> None:
        assert differences(Block(0), Block(3).eval()) == []

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (Block(0, scale=0.5), "scale is 0.5, was 1.0"),
            (Block(0, bias=False), "linear.bias is missing"),
            (Block(0, width=3), "linear.weight has another shape"),
            (nn.Sequential(), "is Sequential, was Block"),
        ],
    )
    def test_what_computes_otherwise_is_said(self, other: nn.Module, said: str) -> None:
        assert any(said in line for line in differences(Block(0), other))

    def test_collections_are_compared_too(self) -> None:
        one, other = Block(0), Block(1)
        one.sizes, other.sizes = [1, (2, {"a": 3.0})], [1, (2, {"a": 3.0 * (1 + 1e-13)})]  # rounds otherwise
        assert differences(one, other) == []
        other.sizes = [1, (2, {"a": 3.1})]
        assert differences(one, other) == ["sizes is [1, (2, {'a': 3.1})], was [1, (2, {'a': 3.0})]"]
        assert differences(one, other, settled={"sizes"}) == []

    def test_tensors_that_no_checkpoint_has_are_compared_by_value(self) -> None:
        one, other = Block(0), Block(1)
        for block, value in ((one, 0.5), (other, 0.25)):
            block.register_buffer("slope", torch.full((2,), value), persistent=False)
        assert differences(one, other) == ["slope has other values"]
        assert differences(one, other.to("meta")) == []  # shapes only

    def test_a_module_more_is_said_either_way(self) -> None:
        more = Block(0)
        more.extra = nn.ReLU()
        for pair in ((Block(0), more), (more, Block(0))):
            assert differences(*pair) == ["module extra is in only one of them"]
