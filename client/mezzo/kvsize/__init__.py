"""How many bytes of KV cache some tokens have, from a model's shape. No I/O, and nothing is executed.

    shape = kvsize.parse_config(Path("config.json").read_bytes())
    kvsize.chunk_size(shape, tokens=256, dtype="bf16", tp=2).bytes

docs/kvsize.md has the formulas, and where each kind of model differs.
"""

from __future__ import annotations

from mezzo.kvsize.config import CONFIG_BYTES_MAX, parse_config
from mezzo.kvsize.shape import DTYPES, Layer, Scales, Shape, full_attention, latent_attention
from mezzo.kvsize.size import ChunkSize, Term, chunk_size, pipeline_layers

__all__ = [
    # shapes
    "Layer",
    "Shape",
    "full_attention",
    "latent_attention",
    # from a file
    "CONFIG_BYTES_MAX",
    "parse_config",
    # sizes
    "DTYPES",
    "ChunkSize",
    "Scales",
    "Term",
    "chunk_size",
    "pipeline_layers",
]
