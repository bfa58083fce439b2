"""The preset `conversation` has the figures of the published trace, and its document those of the schema.

No trace is needed: its figures are constants here, as `mezzo workload --describe` prints them for the
file that docs/replay.md names (kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl,
Apache-2.0, SHA-256 b8cbb061...).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mezzo.errors import InvalidArgument
from mezzo.replay.describe import describe
from mezzo.replay.presets import PRESETS
from mezzo.replay.workload import workload
from mezzo.replay.workload_document import renewed

# figure: published, and by how much of it the preset may differ
PUBLISHED: dict[str, tuple[float, float]] = {
    "requests": (12_031, 0.08),
    "references": (288_500, 0.12),
    "distinct": (182_790, 0.10),
    "duration_s": (3537, 0.01),
    "hit_rate_max": (0.3664, 0.08),
    "lru_hit_rates.1000": (0.0445, 0.15),
    "lru_hit_rates.4000": (0.0858, 0.20),
    "lru_hit_rates.8000": (0.1776, 0.15),
    "lru_hit_rates.16000": (0.2627, 0.15),
    "lru_hit_rates.32000": (0.3320, 0.10),
    "lru_hit_rates.64000": (0.3593, 0.08),
    "single_use_share": (0.7585, 0.08),
    "used_2_to_4_share": (0.2121, 0.30),
    "used_5_to_9_share": (0.0221, 0.40),
    "first_block_share": (1.0, 0.0),
    "first_turn_share": (0.6128, 0.06),
    "full_hit_share": (0.0098, 0.40),
    "input_tokens.mean": (12_035, 0.10),
    "input_tokens.p10": (964, 0.05),
    "input_tokens.p50": (6909, 0.08),
    "input_tokens.p90": (27_367, 0.15),
    "input_tokens.p99": (85_401, 0.12),
    "output_tokens.mean": (343, 0.05),
    "output_tokens.p50": (350, 0.05),
    "output_tokens.p90": (597, 0.05),
    "output_tokens.p99": (1120, 0.08),
    "new_blocks.mean": (15.19, 0.12),
    "new_blocks.p50": (5, 0.2),
    "new_blocks.p90": (38, 0.12),
    "reuse_s.mean": (215, 0.12),
    "reuse_s.p10": (42, 0.15),
    "reuse_s.p50": (123, 0.12),
    "reuse_s.p90": (483, 0.15),
    "requests_per_minute.mean": (204, 0.08),
    "requests_per_minute.p10": (169, 0.12),
    "requests_per_minute.p90": (235, 0.12),
    "last_third_to_first": (1.208, 0.12),
}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_preset_has_the_published_figures(seed: int) -> None:
    made: dict[str, Any] = msgspec.to_builtins(
        describe(workload(replace(PRESETS["conversation"], seed=seed)))
    )
    off = {}
    for name, (published, tolerance) in PUBLISHED.items():
        figure, _, inner = name.partition(".")
        value = made[figure][inner] if inner else made[figure]
        if abs(value / published - 1) > tolerance:
            off[name] = f"{value:.4g} is not {published:.4g} within {tolerance:.0%}"
    assert off == {}


def test_the_document_is_of_the_schema() -> None:
    path = Path(__file__).parents[3] / "docs" / "workload.md"
    text = path.read_text()
    assert renewed(text) == text, "python -m mezzo.replay.workload_document docs/workload.md"
    with pytest.raises(InvalidArgument, match="the marks"):
        renewed("no marks")
