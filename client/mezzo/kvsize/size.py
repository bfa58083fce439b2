"""The arithmetic: bytes of a chunk of so many tokens, on one rank, with the formula that led to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mezzo.errors import InvalidArgument
from mezzo.kvsize.shape import DTYPES, Layer, Scales, Shape, check_number, dtype_named

PARALLEL_MAX = 4096
"""ranks, of tensor and of pipeline parallelism each"""


@dataclass(frozen=True, slots=True)
class Term:
    """Layers that keep the same, and their bytes."""

    what: str
    """in words"""
    formula: str
    """of ``bytes``, with its numbers"""
    layers: int
    window: int
    """tokens that these layers keep at most; 0: all"""
    bytes_per_token: int
    """0 for a state"""
    bytes: int
    """of the chunk"""


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """Bytes of one chunk on one rank."""

    tokens: int
    dtype: str
    tp: int
    pp: int
    pp_rank: int
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        """Of the chunk."""
        return sum(term.bytes for term in self.terms)

    @property
    def bytes_per_token(self) -> int:
        """Of one token that all layers keep; states are not among it."""
        return sum(term.bytes_per_token for term in self.terms)


def chunk_size(
    shape: Shape,
    *,
    tokens: int,
    dtype: str,
    tp: int = 1,
    pp: int = 1,
    pp_rank: int = 0,
    pp_layers: Sequence[int] = (),
    scales: Scales | None = None,
    state_bytes: int = 0,
) -> ChunkSize:
    """Bytes of a chunk of ``tokens`` tokens on one rank of tensor and pipeline parallelism.

    All ranks of tensor parallelism have the same: KV heads are split among them, and repeated where there
    are more ranks than heads; a latent vector is on each of them.  ``pp_layers``: how many layers each
    pipeline rank has; without it as `pipeline_layers` says.  ``state_bytes``: bytes of the recurrent state
    of one layer on one rank, of which a chunk holds the one at its end.

    Raises:
        InvalidArgument: a number is not valid, heads cannot be split so, or nothing is kept.
    """
    check_number("tokens", tokens)
    check_number("state_bytes", state_bytes, least=0)
    for name, number in (("tp", tp), ("pp", pp)):
        if not 1 <= number <= PARALLEL_MAX:
            raise InvalidArgument(f"{name} is {number}, not from 1 to {PARALLEL_MAX}")
    if not 0 <= pp_rank < pp:
        raise InvalidArgument(f"pp_rank is {pp_rank}; with pp {pp} it is from 0 to {pp - 1}")
    dtype = dtype_named(dtype)
    split = tuple(pp_layers) or pipeline_layers(len(shape.layers), pp)
    if len(split) != pp or min(split) < 0 or sum(split) != len(shape.layers):
        raise InvalidArgument(
            f"pp_layers must be {pp} numbers that add up to {len(shape.layers)} layers, not {list(split)}"
        )
    first = sum(split[:pp_rank])
    counted: dict[Layer, int] = {}
    for layer in shape.layers[first : first + split[pp_rank]]:
        counted[layer] = counted.get(layer, 0) + 1
    terms = [
        _attention(layer, count, tokens, dtype, tp, scales or Scales())
        for layer, count in counted.items()
        if layer.attends
    ]
    states = sum(count for layer, count in counted.items() if layer.state)
    if states and state_bytes:
        total = states * state_bytes
        formula = f"{states} layers x {state_bytes:,} bytes"
        terms.append(Term("state at the chunk's end", formula, states, 0, 0, total))
    size = ChunkSize(tokens, dtype, tp, pp, pp_rank, tuple(terms))
    if not size.bytes:
        raise InvalidArgument(
            f"none of the {sum(counted.values())} layers of this rank keeps anything for a token"
            + ("; give the bytes of a layer's state" if states else "")
        )
    return size


def pipeline_layers(layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline rank: as even as it goes, what is left over to ranks before the last.

    So does vLLM (``get_pp_indices`` in ``vllm/distributed/utils.py``): the last rank has the head of the model
    besides.  Other engines may do otherwise; then give the numbers.

    Raises:
        InvalidArgument: there are more ranks than layers.
    """
    if not 1 <= pp <= layers:
        raise InvalidArgument(f"{layers} layers cannot be split over {pp} pipeline ranks")
    split = [layers // pp] * pp
    for place in range(layers % pp):
        split[-(place + 2)] += 1
    return tuple(split)


def _heads_of_rank(kv_heads: int, tp: int) -> int:
    if tp <= kv_heads:
        if kv_heads % tp:
            raise InvalidArgument(f"{kv_heads} KV heads cannot be split over tp {tp}")
        return kv_heads // tp
    if tp % kv_heads:
        raise InvalidArgument(f"{kv_heads} KV heads cannot be repeated over tp {tp}")
    return 1


def _attention(layer: Layer, count: int, tokens: int, dtype: str, tp: int, scales: Scales) -> Term:
    bits = DTYPES[dtype]
    kept = min(tokens, layer.window) if layer.window else tokens
    times = f"{kept:,} tokens"
    if layer.latent_dim:
        vector_bytes, formula = _vector(layer.latent_dim, dtype, scales)
        per_token = count * vector_bytes
        shown = f"{count} layers x {times} x {formula}"
        what = "latent attention"
    else:
        heads = _heads_of_rank(layer.kv_heads, tp)
        key_bytes, key = _vector(layer.key_dim, dtype, scales)
        value_bytes, value = _vector(layer.value_dim, dtype, scales)
        per_token = count * heads * (key_bytes + value_bytes)
        of_heads = f"{count} layers x {heads} KV heads x {times}"
        if layer.key_dim == layer.value_dim:
            shown = f"2 x {of_heads} x {key}"
        elif scales.bytes or bits % 8:
            shown = f"{of_heads} x ({key} + {value})"
        else:
            shown = f"{of_heads} x ({layer.key_dim} + {layer.value_dim}) x {_bytes_word(bits)}"
        what = "attention"
    if layer.window:
        what = f"{what}, window {layer.window:,}"
    return Term(what, shown, count, layer.window, per_token, per_token * kept)


def _vector(elements: int, dtype: str, scales: Scales) -> tuple[int, str]:
    """Bytes of one vector with its scales, and how they are had."""
    bits = DTYPES[dtype]
    if elements * bits % 8:
        raise InvalidArgument(f"{elements} elements of {dtype} are no whole number of bytes")
    nbytes = elements * bits // 8
    shown = f"{elements} x {_bytes_word(bits)}"
    if scales.bytes:
        number = -(-elements // scales.elements) if scales.elements else 1
        nbytes += number * scales.bytes
        of_scales = f"{number} x {scales.bytes}" if number > 1 else f"{scales.bytes}"
        shown = f"({shown} + {of_scales} of scales)"
    return nbytes, shown


def _bytes_word(bits: int) -> str:
    if bits % 8:
        return f"{bits} / 8 bytes"
    return "1 byte" if bits == 8 else f"{bits // 8} bytes"
