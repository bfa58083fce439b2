"""A model's shape, as far as its KV cache goes: what each layer keeps of a token."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo.errors import InvalidArgument

LAYERS_MAX = 4096
"""of one model; the largest published ones have a few hundred"""
NUMBER_MAX = 1 << 31
"""of any number in a shape: what is over it is a mistake"""

DTYPES: dict[str, int] = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "int8": 8,
    "fp4": 4,
    "int4": 4,
}
"""bits of one element, by the name of its dtype"""
_ALIASES = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp8_e4m3fn": "fp8_e4m3",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}


def dtype_named(name: str) -> str:
    """The name in `DTYPES` for a dtype as engines and frameworks write it.

    Raises:
        InvalidArgument: there is no such dtype.
    """
    plain = name.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPES:
        raise InvalidArgument(f"{name!r} is no dtype of KV; there are {', '.join(DTYPES)}")
    return plain


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps."""

    kv_heads: int = 0
    """0: the layer keeps no keys and values (a state, an MLP alone, or what another layer keeps)"""
    key_dim: int = 0
    """elements of one head's key"""
    value_dim: int = 0
    latent_dim: int = 0
    """elements of the one latent vector of multi-head latent attention, in place of keys and values"""
    window: int = 0
    """the layer sees at most so many tokens back, and keeps no more; 0: all"""
    state: bool = False
    """it keeps a recurrent state, whose bytes do not depend on the number of tokens"""

    @property
    def attends(self) -> bool:
        """Whether it keeps something for each token."""
        return bool(self.kv_heads or self.latent_dim)


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales that a quantised cache keeps beside its elements; none by default (one scale for a whole tensor)."""

    bytes: int = 0
    """of one scale (and zero point, if there is one)"""
    elements: int = 0
    """elements that share a scale; 0: all of a head's key, or of its value"""

    def __post_init__(self) -> None:
        if not 0 <= self.bytes <= 64 or not 0 <= self.elements <= NUMBER_MAX:
            raise InvalidArgument(f"scales of {self.bytes} bytes for {self.elements} elements are not valid")


@dataclass(frozen=True, slots=True)
class Shape:
    """A model, as far as its KV cache goes. The first layer comes first."""

    layers: tuple[Layer, ...]
    model_type: str = ""
    """as the configuration calls it"""
    notes: tuple[str, ...] = ()
    """what was assumed, for people"""

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= LAYERS_MAX:
            raise InvalidArgument(f"a model has 1 to {LAYERS_MAX} layers, not {len(self.layers)}")


def full_attention(layers: int, kv_heads: int, head_dim: int, *, window: int = 0) -> Shape:
    """A model whose layers are all alike: multi-head, grouped-query or multi-query attention.

    Raises:
        InvalidArgument: a number is not positive.
    """
    for name, number in (("layers", layers), ("kv_heads", kv_heads), ("head_dim", head_dim)):
        check_number(name, number)
    layer = Layer(kv_heads=kv_heads, key_dim=head_dim, value_dim=head_dim, window=window)
    return Shape((layer,) * min(layers, LAYERS_MAX + 1))


def latent_attention(layers: int, kv_lora_rank: int, qk_rope_head_dim: int) -> Shape:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one vector for each token and layer.

    Raises:
        InvalidArgument: a number is not positive.
    """
    for name, number in (("layers", layers), ("kv_lora_rank", kv_lora_rank)):
        check_number(name, number)
    check_number("qk_rope_head_dim", qk_rope_head_dim, least=0)
    return Shape((Layer(latent_dim=kv_lora_rank + qk_rope_head_dim),) * min(layers, LAYERS_MAX + 1))


def check_number(name: str, number: int, *, least: int = 1) -> int:
    """``number``, if it may be in a shape. Raises InvalidArgument if not."""
    if not least <= number <= NUMBER_MAX:
        raise InvalidArgument(f"{name} is {number}, not from {least} to {NUMBER_MAX}")
    return number
