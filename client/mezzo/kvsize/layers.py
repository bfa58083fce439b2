"""Which layers attend to everything, which within a window, and which keep a state instead.

Configurations say it in many ways.  A list with a word for each layer wins; else what the kind of model has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mezzo.errors import InvalidArgument
from mezzo.kvsize.keys import Keys
from mezzo.kvsize.shape import LAYERS_MAX


@dataclass(frozen=True, slots=True)
class Kind:
    """What a layer does."""

    attends: bool = True
    window: int = 0
    """tokens that it sees back; 0: all"""
    state: bool = False


FULL = Kind()
STATE = Kind(attends=False, state=True)
NOTHING = Kind(attends=False)

FULL_WORDS = {"full_attention", "attention", "full", "global", "*", "nope"}
WINDOW_WORDS = {"sliding_attention", "local_attention", "sliding", "local", "swa"}
CHUNKED_WORDS = {"chunked_attention"}
STATE_WORDS = {
    "linear_attention",
    "mamba",
    "mamba1",
    "mamba2",
    "conv",
    "recurrent",
    "linear",
    "gated_deltanet",
    "kda",
    "m",
}
NOTHING_WORDS = {"mlp", "moe", "ffn", "-", "e", "no_op"}
BOTH_WORDS = {"hybrid", "parallel_hybrid"}
"""attention and a state side by side, or one after the other, in one layer"""

WINDOW_EVERYWHERE = {"mistral", "mixtral", "phi3", "starcoder2", "ministral"}
"""models all of whose layers have the window that the configuration names"""
WINDOW_ON_REQUEST = "qwen"
"""how kinds of models begin that have a window only with ``use_sliding_window``, whatever they name"""
WINDOW_FROM_LAYER = 28
"""the first layer of these with a window, if nothing is said (transformers' ``Qwen2Config``)"""
PATTERNS = {"gemma2": 2, "gemma3_text": 6, "gemma4_text": 6, "cohere2": 4}
"""every so many layers one attends to everything, unless the configuration says otherwise"""
LAST_IS_FULL = {"gemma4_text"}
"""models whose last layer attends to everything, whatever the pattern"""
ALTERNATING = {"gpt_oss"}
"""the first layer has a window, the next has none, and so on"""
BOTH_EVERYWHERE = {"falcon_h1"}
STATE_EVERYWHERE = {"mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv5", "rwkv6", "rwkv7"}
STATE_KEYS = ("mamba_", "ssm_", "linear_num_", "linear_conv_", "conv_L_cache", "lru_width", "gated_delta")
"""how keys begin that only models with recurrent states have"""


def kinds(keys: Keys, count: int) -> list[Kind]:
    """What each of ``count`` layers does.

    Raises:
        InvalidArgument: the configuration contradicts itself, lacks a window, has a word for a layer that is
            not known, or keeps states without saying where.
    """
    layout = _by_word(keys, count)
    if layout is None:
        layout = next((found for rule in _RULES if (found := rule(keys, count)) is not None), None)
    if layout is None:
        _check_no_states(keys)
        layout = _windows(keys, count)
    return _without(keys, layout)


def _check_no_states(keys: Keys) -> None:
    """Nothing is guessed of a hybrid: taking all of its layers for attention would be far off."""
    for key, value in keys.values.items():
        if key.startswith(STATE_KEYS) and value is not None:
            raise InvalidArgument(
                f"{keys.where}{key} says that some layers keep a recurrent state, and nothing that is known here says "
                "which: give layer_types"
            )


def _by_word(keys: Keys, count: int) -> list[Kind] | None:
    for name in ("layer_types", "layers_block_type"):
        words = keys.listed(name)
        if words is not None:
            return _words(keys, name, words, count)
    pattern = keys.text("hybrid_override_pattern")  # Nemotron-H
    if pattern is not None:
        return _words(keys, "hybrid_override_pattern", list(pattern), count)
    return None


def _words(keys: Keys, name: str, words: Sequence[object], count: int) -> list[Kind]:
    if len(words) != count:
        raise InvalidArgument(
            f"{keys.where}{name} has {len(words)} entries for {count} layers ({keys.told('num_hidden_layers')})"
        )
    known = {word: _word(keys, name, word) for word in {str(word) for word in words}}
    return [known[str(word)] for word in words]


def _word(keys: Keys, name: str, word: str) -> Kind:
    plain = word.lower()
    if plain in FULL_WORDS:
        return FULL
    if plain in WINDOW_WORDS:
        return Kind(window=_window(keys))
    if plain in CHUNKED_WORDS:
        return Kind(window=keys.number("attention_chunk_size"))
    if plain in STATE_WORDS:
        return STATE
    if plain in NOTHING_WORDS:
        return NOTHING
    if plain in BOTH_WORDS:
        return Kind(state=True)
    raise InvalidArgument(f"{keys.where}{name} has a layer of a kind that is not known: {word[:60]!r}")


def _window(keys: Keys) -> int:
    return keys.number("sliding_window")


# -- kinds of models that say it in a way of their own ----------------------------------------------


def _jamba(keys: Keys, count: int) -> list[Kind] | None:
    period = keys.number("attn_layer_period", 0)
    if not period:
        return None
    offset = keys.number("attn_layer_offset", 0)
    return [FULL if index % period == offset else STATE for index in range(count)]


def _interval(keys: Keys, count: int) -> list[Kind] | None:
    """Qwen3-Next, without a list of its layers."""
    interval = keys.number("full_attention_interval", 0)
    if not interval:
        return None
    return [STATE if (index + 1) % interval else FULL for index in range(count)]


def _indices(keys: Keys, count: int) -> list[Kind] | None:
    """Bamba and the first LFM2: the layers that attend, by number."""
    attending = keys.numbers("attn_layer_indices")
    if attending is None:
        attending = keys.numbers("full_attn_idxs")
    return None if attending is None else [FULL if index in attending else STATE for index in range(count)]


def _minimax(keys: Keys, count: int) -> list[Kind] | None:
    """MiniMax-01: 1 for a layer that attends, 0 for linear attention."""
    listed = keys.numbers("attn_type_list")
    if listed is None:
        return None
    return _words(keys, "attn_type_list", ["full" if one else "linear" for one in listed], count)


def _mimo(keys: Keys, count: int) -> list[Kind] | None:
    """MiMo-V2: 1 for a layer with a window, 0 for one without."""
    listed = keys.numbers("hybrid_layer_pattern")
    if listed is None:
        return None
    return _words(keys, "hybrid_layer_pattern", ["sliding" if one else "full" for one in listed], count)


def _kimi(keys: Keys, count: int) -> list[Kind] | None:
    """Kimi Linear: numbers of the layers that attend, counted from 1."""
    linear = keys.mapping("linear_attn_config")
    attending = None if linear is None else linear.numbers("full_attn_layers")
    return (
        None if attending is None else [FULL if index + 1 in attending else STATE for index in range(count)]
    )


def _repeated(keys: Keys, count: int) -> list[Kind] | None:
    """RecurrentGemma: a pattern that is repeated."""
    pattern = keys.listed("block_types")
    if not pattern:
        return None
    words = [str(pattern[index % len(pattern)]) for index in range(count)]
    window = Kind(window=_window(keys))
    return [window if word == "attention" else _word(keys, "block_types", word) for word in words]


def _llama4(keys: Keys, count: int) -> list[Kind] | None:
    """Llama 4: layers with rotary positions attend within chunks; every fourth has none and attends to all."""
    chunk = keys.number("attention_chunk_size", 0)
    if not chunk:
        return None
    rotary = keys.numbers("no_rope_layers")
    if not rotary:
        interval = keys.number("no_rope_layer_interval", 4) or 4
        rotary = [int((index + 1) % interval != 0) for index in range(count)]
    return _words(keys, "no_rope_layers", ["chunked_attention" if one else "full" for one in rotary], count)


def _everywhere(keys: Keys, count: int) -> list[Kind] | None:
    if keys.model_type in BOTH_EVERYWHERE:
        return [Kind(state=True)] * count
    if keys.model_type in STATE_EVERYWHERE:
        return [STATE] * count
    return None


_RULES: tuple[Callable[[Keys, int], list[Kind] | None], ...] = (
    _jamba,
    _interval,
    _indices,
    _minimax,
    _mimo,
    _kimi,
    _repeated,
    _llama4,
    _everywhere,
)


# -- windows ---------------------------------------------------------------------------------------------


def _windows(keys: Keys, count: int) -> list[Kind]:
    """Models that only attend, with or without a window."""
    asked = keys.flag("use_sliding_window", default=not keys.model_type.startswith(WINDOW_ON_REQUEST))
    if not asked or (keys.has("sliding_window") and not keys.number("sliding_window", 0)):
        return [FULL] * count
    if keys.model_type in ALTERNATING:
        return [FULL if index % 2 else Kind(window=_window(keys)) for index in range(count)]
    pattern = _pattern(keys)
    if pattern is not None:
        layout = [pattern[index % len(pattern)] for index in range(count)]
        return [*layout[:-1], FULL] if keys.model_type in LAST_IS_FULL else layout
    window = keys.number("sliding_window", 0)
    if not window:
        return [FULL] * count
    if keys.model_type.startswith(WINDOW_ON_REQUEST):  # the first layers attend to everything
        first = keys.number("max_window_layers", WINDOW_FROM_LAYER)
        return [Kind(window=window) if index >= first else FULL for index in range(count)]
    if keys.model_type not in WINDOW_EVERYWHERE:
        keys.note(f"{keys.told('sliding_window')} is taken to hold for every layer")
    return [Kind(window=window)] * count


def _pattern(keys: Keys) -> list[Kind] | None:
    """A pattern of windows that is repeated: its length (the last of it has none), or letters L and G."""
    name = next((n for n in ("sliding_window_pattern", "_sliding_window_pattern") if n in keys.values), None)
    told = keys.values[name] if name is not None else None
    if isinstance(told, str):
        if not told or not set(told) <= set("LG"):
            raise InvalidArgument(f"{keys.where}{name} is no pattern of L and G: {told[:60]!r}")
        return [Kind(window=_window(keys)) if letter == "L" else FULL for letter in told]
    length = keys.number(name, 0) if name is not None else 0
    length = length or PATTERNS.get(keys.model_type, 0)
    if not length:
        return None
    # A pattern longer than any model is all windows; it need not be built to its end.
    return [Kind(window=_window(keys))] * (min(length, LAYERS_MAX + 1) - 1) + [FULL]


def _without(keys: Keys, layout: list[Kind]) -> list[Kind]:
    """Less the layers that keep nothing of their own."""
    shared = keys.number("num_kv_shared_layers", 0)  # Gemma 3n and 4: the last layers read what others keep
    if shared:
        keys.note(f"the last {shared} layers share what earlier ones keep ({keys.where}num_kv_shared_layers)")
        layout = layout[: max(0, len(layout) - shared)] + [NOTHING] * min(shared, len(layout))
    factor = keys.number("cla_share_factor", 0) if keys.flag("use_cla") else 0  # Hunyuan
    if factor > 1:
        keys.note(f"{factor} neighbouring layers share what the first of them keeps ({keys.where}use_cla)")
        layout = [NOTHING if index % factor else kind for index, kind in enumerate(layout)]
    crossing = keys.numbers("cross_attention_layers")  # Llama 3.2 Vision
    if crossing:
        keys.note(
            f"{len(crossing)} layers attend to images only and are not counted (cross_attention_layers)"
        )
        layout = [NOTHING if index in crossing else kind for index, kind in enumerate(layout)]
    return layout
