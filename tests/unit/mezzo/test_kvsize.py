"""`mezzo.kvsize`: bytes of a chunk, against figures that are known and against arithmetic done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo import kvsize
from mezzo.cli.app import make_app, run
from mezzo.errors import InvalidArgument

LLAMA_8B = {
    "model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 4096,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_nextn_predict_layers": 1,
}  # fmt: skip
QWEN3_NEXT = {
    "model_type": "qwen3_next", "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
    "head_dim": 256, "hidden_size": 2048, "full_attention_interval": 4,
}  # fmt: skip
GEMMA3_27B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
        "head_dim": 128, "hidden_size": 5376, "sliding_window": 1024,
    },
}  # fmt: skip
GPT_OSS_20B = {
    "model_type": "gpt_oss", "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
    "head_dim": 64, "hidden_size": 2880, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}  # fmt: skip
NEMOTRON_H_8B = {
    "model_type": "nemotron_h", "num_hidden_layers": 52, "num_attention_heads": 32, "num_key_value_heads": 8,
    "attention_head_dim": 128, "hidden_size": 4096,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
}  # fmt: skip

PER_TOKEN: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.1-8B": (LLAMA_8B, 128 * 1024),
    "Llama-3.1-70B": ({**LLAMA_8B, "num_hidden_layers": 80, "num_attention_heads": 64, "hidden_size": 8192}, 320 * 1024),
    "Llama-2-7B, without KV heads": (
        {"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}, 512 * 1024,
    ),
    "Qwen2.5-7B": (
        {"model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
         "hidden_size": 3584, "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 28}, 56 * 1024,
    ),
    "Qwen3-8B": (
        {"model_type": "qwen3", "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 128, "hidden_size": 4096, "sliding_window": None}, 144 * 1024,
    ),
    "Mistral-Nemo, head_dim not hidden/heads": (
        {"model_type": "mistral", "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 128, "hidden_size": 5120, "sliding_window": None}, 160 * 1024,
    ),
    "Mixtral-8x7B": ({**LLAMA_8B, "model_type": "mixtral", "sliding_window": None}, 128 * 1024),
    "DeepSeek-V3": (DEEPSEEK_V3, 70_272),
    "DeepSeek-V2-Lite": (
        {**DEEPSEEK_V3, "model_type": "deepseek_v2", "num_hidden_layers": 27, "num_attention_heads": 16,
         "num_key_value_heads": 16, "hidden_size": 2048}, 27 * 576 * 2,
    ),
    "Gemma-2-9B": (
        {"model_type": "gemma2", "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 256, "hidden_size": 3584, "sliding_window": 4096}, 336 * 1024,
    ),
    "Gemma-3-27B": (GEMMA3_27B, 496 * 1024),
    "Gemma-3-4B, whose file leaves out what its class has": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 34,
         "hidden_size": 2560, "sliding_window": 1024}}, 2 * 34 * 4 * 256 * 2,
    ),
    "gpt-oss-20b": (GPT_OSS_20B, 48 * 1024),
    "GPT-2": ({"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768}, 36 * 1024),
    "GPT-NeoX-20B": (
        {"model_type": "gpt_neox", "num_hidden_layers": 44, "num_attention_heads": 64, "hidden_size": 6144},
        2 * 44 * 6144 * 2,
    ),
    "Falcon-7B": (
        {"model_type": "falcon", "num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544,
         "multi_query": True, "num_kv_heads": 71, "new_decoder_architecture": False}, 2 * 32 * 64 * 2,
    ),
    "Falcon-40B": (
        {"model_type": "falcon", "num_hidden_layers": 60, "num_attention_heads": 128, "hidden_size": 8192,
         "multi_query": True, "num_kv_heads": 8, "new_decoder_architecture": True}, 2 * 60 * 8 * 64 * 2,
    ),
    "StarCoder": (
        {"model_type": "gpt_bigcode", "n_layer": 40, "n_head": 48, "n_embd": 6144, "multi_query": True}, 2 * 40 * 128 * 2,
    ),
    "MPT-30B": ({"model_type": "mpt", "n_layers": 48, "n_heads": 64, "d_model": 7168, "attn_config": {}}, 2 * 48 * 7168 * 2),
    "ChatGLM3-6B": (
        {"model_type": "chatglm", "num_layers": 28, "num_attention_heads": 32, "hidden_size": 4096, "kv_channels": 128,
         "multi_query_attention": True, "multi_query_group_num": 2}, 2 * 28 * 2 * 128 * 2,
    ),
    "Jamba-v0.1": ({**LLAMA_8B, "model_type": "jamba", "attn_layer_period": 8, "attn_layer_offset": 4}, 16 * 1024),
    "Qwen3-Next-80B": (QWEN3_NEXT, 24 * 1024),
    "Nemotron-H-8B": (NEMOTRON_H_8B, 16 * 1024),
    "Llama-4-Scout": (
        {"model_type": "llama4", "text_config": {
            "model_type": "llama4_text", "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
            "head_dim": 128, "hidden_size": 5120, "attention_chunk_size": 8192, "no_rope_layers": []}}, 192 * 1024,
    ),
    "keys and values of two sizes": ({**LLAMA_8B, "head_dim": 192, "v_head_dim": 128}, 32 * 8 * (192 + 128) * 2),
    "DeciLM": (
        {"model_type": "deci", "num_hidden_layers": 3, "num_attention_heads": 64, "hidden_size": 8192, "block_configs": [
            {"attention": {"n_heads_in_group": 8, "no_op": False}}, {"attention": {"n_heads_in_group": None, "no_op": True}},
            {"attention": {"n_heads_in_group": 16}}]}, 2 * (8 + 4) * 128 * 2,
    ),
    "LLaVA-1.5-7B, whose file leaves out what its class has": (
        {"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}},
        512 * 1024,
    ),
    "Pixtral-12B": (
        {"model_type": "llava", "text_config": {"model_type": "mistral", "num_hidden_layers": 40, "head_dim": 128,
         "hidden_size": 5120, "sliding_window": None}}, 160 * 1024,
    ),
    "Qwen2-Audio-7B, which names a window that it does not use": (
        {"model_type": "qwen2_audio", "text_config": {"model_type": "qwen2", "sliding_window": 32768}}, 512 * 1024,
    ),
    "DeepSeek-VL2-Tiny, without latent attention": (
        {"model_type": "deepseek_vl_v2", "language_config": {"model_type": "deepseek_v2", "num_hidden_layers": 12,
         "num_attention_heads": 10, "num_key_value_heads": 10, "hidden_size": 1280, "kv_lora_rank": None,
         "qk_rope_head_dim": 0, "v_head_dim": 0}}, 2 * 12 * 1280 * 2,
    ),
    "DeepSeek-VL2": (
        {"model_type": "deepseek_vl_v2", "language_config": {"model_type": "deepseek_v2", "num_hidden_layers": 30,
         "num_attention_heads": 32, "hidden_size": 2560, "kv_lora_rank": 512, "v_head_dim": 128}}, 30 * 576 * 2,
    ),
    "Phi-3-mini-4k": (
        {"model_type": "phi3", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "hidden_size": 3072, "sliding_window": 2047}, 384 * 1024,
    ),
    "GLM-4-9B": (
        {"model_type": "chatglm", "num_layers": 40, "num_attention_heads": 32, "hidden_size": 4096, "kv_channels": 128,
         "multi_query_attention": True, "multi_query_group_num": 2}, 40 * 1024,
    ),
    "GLM-4.5": (
        {"model_type": "glm4_moe", "num_hidden_layers": 92, "num_attention_heads": 96, "num_key_value_heads": 8,
         "head_dim": 128, "hidden_size": 5120, "num_nextn_predict_layers": 1}, 368 * 1024,
    ),
    "BLOOM-560M": ({"model_type": "bloom", "n_layer": 24, "num_attention_heads": 16, "n_embed": 1024}, 96 * 1024),
    "Gemma-4-26B, whose full layers have heads of their own": (
        {"model_type": "gemma4", "text_config": {
            "model_type": "gemma4_text", "num_hidden_layers": 30, "num_attention_heads": 16, "num_key_value_heads": 8,
            "num_global_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512, "hidden_size": 2816,
            "sliding_window": 1024, "attention_k_eq_v": True}}, 2 * 2 * (25 * 8 * 256 + 5 * 2 * 512),
    ),
    "Gemma-4-E2B, whose last layers share": (
        {"model_type": "gemma4", "text_config": {
            "model_type": "gemma4_text", "num_hidden_layers": 35, "num_key_value_heads": 1, "head_dim": 256,
            "global_head_dim": 512, "hidden_size": 1536, "sliding_window": 512, "num_kv_shared_layers": 20,
            "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7}}, 2 * 2 * (12 * 256 + 3 * 512),
    ),
    "MiMo-V2-Flash": (
        {"model_type": "mimo_v2_flash", "num_hidden_layers": 6, "num_attention_heads": 64, "num_key_value_heads": 4,
         "head_dim": 192, "v_head_dim": 128, "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128,
         "hidden_size": 4096, "sliding_window_size": 128, "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0]},
        2 * (192 + 128) * (2 * 4 + 4 * 8),
    ),
    "LFM2-350M": (
        {"model_type": "lfm2", "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8,
         "hidden_size": 1024, "conv_L_cache": 3, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}, 2 * 6 * 8 * 64 * 2,
    ),
    "Hunyuan-Large, whose neighbours share": (
        {"model_type": "hunyuan", "num_hidden_layers": 64, "num_attention_heads": 80, "num_key_value_heads": 8,
         "hidden_size": 6400, "attention_head_dim": 128, "use_cla": True, "cla_share_factor": 2}, 2 * 32 * 8 * 128 * 2,
    ),
    "Kimi-Linear": (
        {**DEEPSEEK_V3, "model_type": "kimi_linear", "num_hidden_layers": 8,
         "linear_attn_config": {"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3, 5, 6, 7]}}, 2 * 576 * 2,
    ),
    "Gemma-3n, whose last layers share": (
        {"model_type": "gemma3n_text", "num_hidden_layers": 30, "num_attention_heads": 8, "num_key_value_heads": 2,
         "head_dim": 256, "hidden_size": 2048, "num_kv_shared_layers": 10}, 2 * 20 * 2 * 256 * 2,
    ),
}  # fmt: skip


def parse(config: object) -> kvsize.Shape:
    return kvsize.parse_config(json.dumps(config).encode())


def size(config: object, tokens: int = 256, **options: Any) -> kvsize.ChunkSize:
    return kvsize.chunk_size(parse(config), tokens=tokens, **{"dtype": "bf16", **options})


@pytest.mark.parametrize("model", PER_TOKEN)
def test_bytes_a_token(model: str) -> None:
    config, expected = PER_TOKEN[model]
    answer = size(config, tokens=16)
    assert answer.bytes_per_token == expected
    assert answer.bytes == 16 * expected, "no window is shorter"


@pytest.mark.parametrize("model", PER_TOKEN)
def test_the_formula_that_is_shown_is_the_one_that_counts(model: str) -> None:
    for options in ({}, {"dtype": "fp8"}, {"dtype": "int4", "scale": kvsize.Scales(2, 32)}):
        options = {key if key != "scale" else "scales": value for key, value in options.items()}
        for term in size(PER_TOKEN[model][0], tokens=5000, **options).terms:
            python = term.formula.replace(",", "").replace(" x ", " * ")
            for word in ("layers", "KV heads", "tokens", "bytes", "byte", "of scales"):
                python = python.replace(f" {word}", "")
            assert eval(python) == term.bytes, term.formula


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # 52 layers with the window, 10 without: every sixth
        (GEMMA3_27B, 2 * 16 * 128 * 2 * (52 * 1024 + 10 * 4096)),
        (GPT_OSS_20B, 2 * 8 * 64 * 2 * (12 * 128 + 12 * 4096)),
        ({**GPT_OSS_20B, "layer_types": None}, 2 * 8 * 64 * 2 * (12 * 128 + 12 * 4096)),
        ({**LLAMA_8B, "model_type": "mistral", "sliding_window": 4000}, 131072 * 4000),
        (
            {**LLAMA_8B, "model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True, "max_window_layers": 30},
            4096 * (30 * 4096 + 2 * 1024),
        ),
        ({**LLAMA_8B, "model_type": "exaone4", "sliding_window": 1024, "sliding_window_pattern": "LLLG"},
         4096 * (8 * 4096 + 24 * 1024)),
        ({**LLAMA_8B, "model_type": "cohere2", "sliding_window": 1024}, 4096 * (8 * 4096 + 24 * 1024)),
        ({**LLAMA_8B, "model_type": "llama4_text", "attention_chunk_size": 1024}, 4096 * (8 * 4096 + 24 * 1024)),
        ({**LLAMA_8B, "model_type": "llama4_text", "attention_chunk_size": None}, 131072 * 4096),
        # Mistral-7B-v0.1 has a window of 4096 where its file does not say so; null says that there is none.
        ({**LLAMA_8B, "model_type": "mistral", "sliding_window": None}, 131072 * 4096),
        ({**LLAMA_8B, "model_type": "exaone4", "sliding_window": None, "sliding_window_pattern": "LLLG"}, 131072 * 4096),
        ({**LLAMA_8B, "model_type": "qwen2", "sliding_window": 1024}, 131072 * 4096),
        # 17 layers: every sixth has no window, and the last one
        ({**LLAMA_8B, "model_type": "gemma4_text", "num_hidden_layers": 17, "sliding_window": 1024, "head_dim": 128},
         4096 * 14 * 1024 + 2 * 8 * 512 * 2 * 3 * 4096),
    ],
)  # fmt: skip
def test_windows_keep_no_more_than_they_see(config: object, expected: int) -> None:
    assert size(config, tokens=4096).bytes == expected


def test_ranks_of_tensor_parallelism() -> None:
    assert [size(LLAMA_8B, tp=tp).bytes_per_token for tp in (1, 2, 8, 16)] == [131072, 65536, 16384, 16384]
    assert size(DEEPSEEK_V3, tp=8).bytes_per_token == 70_272, "the latent vector is on every rank"
    for tp in (3, 12):
        with pytest.raises(InvalidArgument, match="8 KV heads cannot be"):
            size(LLAMA_8B, tp=tp)


def test_ranks_of_pipeline_parallelism() -> None:
    # as get_pp_indices of vLLM: 61 over 4 is 15, 15, 16, 15
    assert kvsize.pipeline_layers(61, 4) == (15, 15, 16, 15)
    assert [size(DEEPSEEK_V3, pp=2, pp_rank=rank).bytes_per_token for rank in (0, 1)] == [
        31 * 1152,
        30 * 1152,
    ]
    assert size(DEEPSEEK_V3, pp=2, pp_rank=1, pp_layers=(20, 41)).bytes_per_token == 41 * 1152
    # a rank has the layers that it has: the 10 without a window of Gemma 3 are every sixth
    assert [term.layers for term in size(GEMMA3_27B, pp=31, pp_rank=2).terms] == [1, 1]
    for wrong in (
        {"pp": 62},
        {"pp": 2, "pp_rank": 2},
        {"pp": 2, "pp_layers": (61,)},
        {"pp": 2, "pp_layers": (62, -1)},
    ):
        with pytest.raises(InvalidArgument):
            size(DEEPSEEK_V3, **wrong)


@given(st.integers(1, 300), st.integers(1, 300))
def test_pipeline_ranks_have_all_layers(layers: int, pp: int) -> None:
    if pp > layers:
        with pytest.raises(InvalidArgument):
            kvsize.pipeline_layers(layers, pp)
        return
    split = kvsize.pipeline_layers(layers, pp)
    assert len(split) == pp
    assert sum(split) == layers
    assert max(split) - min(split) <= 1


def test_quantised_caches_with_their_scales() -> None:
    assert size(LLAMA_8B, dtype="fp8").bytes_per_token == 65536
    assert size(LLAMA_8B, dtype="float8_e4m3fn").dtype == "fp8_e4m3"
    one = size(LLAMA_8B, dtype="int8", scales=kvsize.Scales(4))
    assert one.bytes_per_token == 2 * 32 * 8 * (128 + 4)
    groups = size(LLAMA_8B, dtype="int4", scales=kvsize.Scales(2, 32))
    assert groups.bytes_per_token == 2 * 32 * 8 * (64 + 4 * 2)
    assert size(DEEPSEEK_V3, dtype="fp8", scales=kvsize.Scales(4, 128)).bytes_per_token == 61 * (576 + 5 * 4)
    with pytest.raises(InvalidArgument, match="'fp7' is no dtype"):
        size(LLAMA_8B, dtype="fp7")


def test_states_count_when_their_bytes_are_given() -> None:
    assert size(QWEN3_NEXT).bytes == 256 * 24 * 1024
    assert size(QWEN3_NEXT, state_bytes=1 << 20).bytes == 256 * 24 * 1024 + 36 * (1 << 20)
    both = {**LLAMA_8B, "model_type": "falcon_h1"}
    assert size(both, state_bytes=100).bytes == 256 * 131072 + 32 * 100
    nothing = {"model_type": "mamba2", "num_hidden_layers": 24, "num_attention_heads": 1, "hidden_size": 1}
    with pytest.raises(InvalidArgument, match="give the bytes of a layer's state"):
        size(nothing)
    assert size(nothing, state_bytes=1000).bytes == 24_000


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ([], "no JSON object"),
        (
            without(LLAMA_8B, "num_hidden_layers"),
            r"lacks num_hidden_layers \(or n_layer, n_layers, num_layers\)",
        ),
        (without(LLAMA_8B, "hidden_size"), r"lacks hidden_size"),
        (
            {"text_config": without({**LLAMA_8B, "model_type": "new"}, "num_attention_heads")},
            r"lacks text_config.num_attention_heads",
        ),
        (without({**DEEPSEEK_V3, "model_type": "new"}, "qk_rope_head_dim"), "lacks qk_rope_head_dim"),
        ({**LLAMA_8B, "mamba_d_state": 16}, "mamba_d_state says that some layers keep a recurrent state"),
        (
            without(QWEN3_NEXT, "full_attention_interval") | {"linear_num_key_heads": 16},
            "linear_num_key_heads",
        ),
        ({**LLAMA_8B, "model_type": "deepseek_v4", "compress_ratios": [4, 128, 0]}, "compress_ratios"),
        ({**LLAMA_8B, "hidden_size": 4097}, "head_dim is missing, and 4097"),
        ({**LLAMA_8B, "num_hidden_layers": 10**6}, "over 4096"),
        ({**LLAMA_8B, "num_hidden_layers": True}, "no number"),
        ({**LLAMA_8B, "num_hidden_layers": "32"}, "no number"),
        ({**LLAMA_8B, "num_key_value_heads": -8}, "no number"),
        ({**LLAMA_8B, "layer_types": ["full_attention"]}, "1 entries for 32 layers"),
        ({**LLAMA_8B, "layer_types": ["telepathy"] * 32}, "'telepathy'"),
        ({**LLAMA_8B, "layer_types": ["sliding_attention"] * 32}, "lacks sliding_window"),
        ({**LLAMA_8B, "layer_types": 7}, "no list"),
        ({**LLAMA_8B, "sliding_window": 8, "sliding_window_pattern": "LX"}, "pattern of L and G"),
        ({**LLAMA_8B, "is_encoder_decoder": True}, "encoder-decoder"),
        ({**LLAMA_8B, "use_sliding_window": 1}, "neither true nor false"),
        ({**LLAMA_8B, "block_configs": [{}]}, r"lacks block_configs\[0\].attention"),
    ],
)
def test_what_is_wrong_is_named(config: object, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        size(config)


def test_what_a_file_leaves_out_is_told() -> None:
    config, _ = PER_TOKEN["Pixtral-12B"]
    told = "text_config.num_key_value_heads is not there: 8, as models of the kind mistral have"
    assert told in parse(config).notes
    assert parse(LLAMA_8B).notes == ()


def test_a_file_is_bounded_and_is_json() -> None:
    for data in (b"{", b"\xff", b"[" * 100_000, b" " * (kvsize.CONFIG_BYTES_MAX + 1)):
        with pytest.raises(InvalidArgument):
            kvsize.parse_config(data)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5000)
    | st.sampled_from(["", "LG", "mamba", "attention", "gemma2"])
)
JSON = SCALARS | st.lists(SCALARS, max_size=3)
NAMES = [
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "layer_types",
    "sliding_window", "sliding_window_pattern", "kv_lora_rank", "block_configs", "attn_layer_period", "model_type",
    "text_config", "block_types", "no_rope_layers", "attention_chunk_size", "cross_attention_layers",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_configuration_has_a_size_or_an_error(changes: dict[str, Any]) -> None:
    try:
        answer = size({**LLAMA_8B, **changes})
    except InvalidArgument:
        return
    assert answer.bytes > 0


@given(
    st.integers(1, 80), st.integers(1, 16), st.integers(1, 256), st.integers(1, 4096), st.integers(0, 4096),
    st.sampled_from(["fp32", "bf16", "fp8"]),
)  # fmt: skip
def test_a_shape_given_by_hand(
    layers: int, heads: int, dim: int, tokens: int, window: int, dtype: str
) -> None:
    shape = kvsize.full_attention(layers, heads, dim, window=window)
    kept = min(tokens, window or tokens)
    width = {"fp32": 4, "bf16": 2, "fp8": 1}[dtype]
    assert (
        kvsize.chunk_size(shape, tokens=tokens, dtype=dtype).bytes == 2 * layers * heads * dim * kept * width
    )


def test_latent_shape_by_hand() -> None:
    assert kvsize.chunk_size(kvsize.latent_attention(61, 512, 64), tokens=1, dtype="bf16").bytes == 70_272


def mezzo(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    assert run(lambda: make_app([]), ["kvsize", *map(str, arguments)]) == status
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_NEXT))
    out, err = mezzo(capsys, tmp_path)
    assert "2 x 12 layers x 2 KV heads x 256 tokens x 256 x 2 bytes" in " ".join(out.split())
    assert "24,576" in out
    assert "36 layers keep a recurrent state" in err
    told = json.loads(
        mezzo(capsys, tmp_path / "config.json", "--tokens", "16", "--state-bytes", "1KiB", "--json")[0]
    )
    assert (told["chunk_bytes"], told["bytes_per_token"]) == (16 * 24576 + 36 * 1024, 24576)
    assert sum(term["bytes"] for term in told["terms"]) == told["chunk_bytes"]
    assert "no list of numbers" in mezzo(capsys, tmp_path, "--pp-layers", "a", status=2)[1]
    assert "No such file" in mezzo(capsys, tmp_path / "absent.json", status=2)[1]
