"""Looks up what a configuration says, under every name that it may have, and refuses what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mezzo.errors import InvalidArgument
from mezzo.kvsize.shape import LAYERS_MAX, NUMBER_MAX

NAMES: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "attention_head_dim", "kv_channels"),
}
"""how a key is called: as we do, then as older models do"""

# What transformers' classes say where the published files of these models say nothing.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma": {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
    },
    "gemma3_text": {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
    },
    "mistral": {"num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8},
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128},
}


@dataclass(frozen=True, slots=True)
class Keys:
    """A configuration, or an object in it."""

    values: Mapping[str, Any]
    where: str
    """prefix for messages, as ``text_config.``"""
    model_type: str

    def told(self, name: str) -> str:
        """A key as it is called in this configuration, with where it is."""
        return self.where + next((key for key in NAMES.get(name, ()) if key in self.values), name)

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number; if it is missing or null what the model's class has, or else ``default``.

        Raises:
            InvalidArgument: it is missing and has no default, or is negative, huge or no whole number; 0 is
                refused unless there is a default.
        """
        least = 1 if default is None else 0
        for key in NAMES.get(name, (name,)):
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= NUMBER_MAX:
                raise InvalidArgument(
                    f"{self.where}{key} is no number from {least} to {NUMBER_MAX}: {_shown(value)}"
                )
            return value
        default = DEFAULTS.get(self.model_type, {}).get(name, default)
        if default is None:
            others = ", ".join(NAMES.get(name, ())[1:])
            raise InvalidArgument(
                f"the configuration lacks {self.where}{name}" + (f" (or {others})" if others else "")
            )
        return default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false; ``default`` if it is missing or null. Raises InvalidArgument if it is neither."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidArgument(f"{self.where}{name} is neither true nor false: {_shown(value)}")
        return value

    def text(self, name: str) -> str | None:
        """A text; None if it is missing or null. Raises InvalidArgument if it is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidArgument(f"{self.where}{name} is no text: {_shown(value)}")
        return value

    def listed(self, name: str) -> list[Any] | None:
        """A list; None if it is missing or null. Raises InvalidArgument if it is none, or too long."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InvalidArgument(f"{self.where}{name} is no list: {_shown(value)}")
        if len(value) > LAYERS_MAX:
            raise InvalidArgument(f"{self.where}{name} has {len(value)} entries, over {LAYERS_MAX}")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers; None if it is missing or null. Raises InvalidArgument if it is none."""
        value = self.listed(name)
        if value is not None and not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            raise InvalidArgument(f"{self.where}{name} is no list of whole numbers")
        return value

    def mapping(self, name: str) -> Keys | None:
        """An object in this one; None if there is none."""
        value = self.values.get(name)
        return Keys(value, f"{self.where}{name}.", self.model_type) if isinstance(value, dict) else None


def _shown(value: object) -> str:
    return repr(value)[:60]
