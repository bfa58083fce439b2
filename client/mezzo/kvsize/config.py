"""Reads the shape out of a model's ``config.json``, as Hugging Face models have one. It executes nothing.

Keys go by several names; each is looked for under all that are known.  What is missing and has no
default that is certain is an error that names the key.  Layers that are not all alike: `mezzo.kvsize.layers`.

Source: the configuration classes of transformers, ``src/transformers/models/*/configuration_*.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from mezzo.errors import InvalidArgument
from mezzo.kvsize.keys import Keys
from mezzo.kvsize.layers import Kind, kinds
from mezzo.kvsize.shape import LAYERS_MAX, Layer, Shape, check_number

CONFIG_BYTES_MAX = 8 << 20
NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""where models of several kinds of input have the configuration of their language model"""
NESTED_DEPTH_MAX = 4


def parse_config(data: bytes) -> Shape:
    """The shape in a ``config.json``.

    Raises:
        InvalidArgument: it is no such file, lacks a key (the message says which), or is of a model whose
            cache is not of this form.
    """
    if len(data) > CONFIG_BYTES_MAX:
        raise InvalidArgument(f"the configuration has {len(data)} bytes, over {CONFIG_BYTES_MAX}")
    try:
        config = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the configuration is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidArgument("the configuration is no JSON object")
    return _shape(_language_model(config))


def _language_model(config: dict[str, Any]) -> Keys:
    where = ""
    model_type = config.get("model_type")
    for _ in range(NESTED_DEPTH_MAX):
        name = next((name for name in NESTED if isinstance(config.get(name), dict)), None)
        if name is None:
            break
        config = config[name]
        where = f"{where}{name}."
        model_type = config.get("model_type", model_type)
    return Keys(config, where, model_type if isinstance(model_type, str) else "", [])


def _shape(keys: Keys) -> Shape:
    _check_form(keys)
    count = keys.number("num_hidden_layers")
    if count > LAYERS_MAX:
        raise InvalidArgument(f"{keys.told('num_hidden_layers')} is {count}, over {LAYERS_MAX}")
    blocks = keys.listed("block_configs")
    layout = kinds(keys, count)
    if blocks is not None:
        layers = [_block(keys, blocks, index, layout[index]) for index in range(count)]
    else:
        known = {kind: _layer(keys, kind) for kind in set(layout)}
        layers = [known[kind] for kind in layout]
    if keys.number("index_head_dim", 0):
        keys.note("the keys of the sparse attention's index (index_head_dim) are not counted")
    if keys.number("num_nextn_predict_layers", 0):
        keys.note("layers that only predict further tokens (num_nextn_predict_layers) are not counted")
    return Shape(tuple(layers), keys.model_type, tuple(keys.notes))


def _check_form(keys: Keys) -> None:
    """Refuse models whose cache has another form than ours."""
    model = keys.model_type or "the model"
    if keys.flag("is_encoder_decoder"):
        raise InvalidArgument(f"{model} is an encoder-decoder model, whose cache is not of one prefix alone")
    if keys.values.get("compress_ratios"):  # DeepSeek-V4
        raise InvalidArgument(
            f"{model} compresses neighbouring tokens into one ({keys.where}compress_ratios), which is not known here"
        )


def _layer(keys: Keys, kind: Kind) -> Layer:
    """What a layer of this kind keeps."""
    if not kind.attends:
        return Layer(state=kind.state)
    return replace(_attention(keys, kind), window=kind.window, state=kind.state)


def _attention(keys: Keys, kind: Kind) -> Layer:
    rank = keys.number("kv_lora_rank", 0)
    if rank:
        return Layer(latent_dim=rank + keys.number("qk_rope_head_dim"))
    heads = keys.number("num_attention_heads")
    # MiMo-V2 and Gemma 4: layers with a window and those without have heads of their own.
    if kind.window and keys.has("swa_num_key_value_heads"):
        own = keys.number("swa_head_dim", 0) or _head_dim(keys, heads)
        return Layer(keys.number("swa_num_key_value_heads"), own, keys.number("swa_v_head_dim", 0) or own)
    if not kind.window and (dim := keys.number("global_head_dim", 0)):
        own_heads = keys.number("num_global_key_value_heads", 0) if keys.flag("attention_k_eq_v") else 0
        return Layer(own_heads or _kv_heads(keys, heads), dim, dim)
    head_dim = _head_dim(keys, heads)
    return Layer(_kv_heads(keys, heads), head_dim, keys.number("v_head_dim", 0) or head_dim)


def _head_dim(keys: Keys, heads: int) -> int:
    given = keys.number("head_dim", 0)
    if given:
        return given
    hidden = keys.number("hidden_size")
    if hidden % heads:
        raise InvalidArgument(
            f"{keys.told('head_dim')} is missing, and {hidden} ({keys.told('hidden_size')}) is no multiple of "
            f"{heads} ({keys.told('num_attention_heads')})"
        )
    return hidden // heads


def _kv_heads(keys: Keys, heads: int) -> int:
    if keys.model_type == "falcon" and not keys.flag("new_decoder_architecture"):
        # The older of the two architectures has its num_kv_heads for another use.
        return 1 if keys.flag("multi_query", default=True) else heads
    if keys.model_type == "chatglm" and not keys.flag("multi_query_attention"):
        return heads
    given = keys.number("num_key_value_heads", 0)
    if given:
        return given
    if keys.flag("multi_query"):
        return 1
    attention = keys.mapping("attn_config")
    if attention is not None and (kv_heads := attention.number("kv_n_heads", 0)):
        return kv_heads
    keys.note(f"no {keys.told('num_key_value_heads')}: as many KV heads as attention heads")
    return heads


def _block(keys: Keys, blocks: list[Any], index: int, kind: Kind) -> Layer:
    """A layer of a model that was thinned out layer by layer (DeciLM, Nemotron-NAS)."""
    where = f"block_configs[{index}]"
    block = blocks[index] if index < len(blocks) else None
    attention = block.get("attention") if isinstance(block, dict) else None
    if not isinstance(attention, dict):
        raise InvalidArgument(f"the configuration lacks {keys.where}{where}.attention")
    found = Keys(attention, f"{keys.where}{where}.attention.", keys.model_type, keys.notes)
    if found.flag("no_op") or found.flag("replace_with_linear"):
        return Layer()
    heads = keys.number("num_attention_heads")
    group = found.number("n_heads_in_group")
    if heads % group:
        raise InvalidArgument(
            f"{found.told('n_heads_in_group')} is {group}, which does not divide {heads} heads"
        )
    head_dim = _head_dim(keys, heads)
    window = found.number("window_length", 0) or kind.window
    return Layer(check_number("kv_heads", heads // group), head_dim, head_dim, window=window)
