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
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "attention_head_dim", "kv_channels"),
    "sliding_window": ("sliding_window", "sliding_window_size", "attention_window_size"),
}
"""how a key is called: as we do, then as older models do"""

# What transformers' classes say where the published files of these models say nothing.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "gemma4_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 512,
    },
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128},
    "llama4_text": {"num_key_value_heads": 8, "head_dim": 128, "attention_chunk_size": 8192},
    "deepseek_v2": {"kv_lora_rank": 512, "qk_rope_head_dim": 64},
    "deepseek_v3": {"kv_lora_rank": 512, "qk_rope_head_dim": 64},
}
# A configuration within another is written without what is as its class has it (LLaVA, Pixtral, Qwen2-Audio);
# one on its own always says these.
DEFAULTS_WITHIN: dict[str, dict[str, int]] = {
    "llama": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
    "mistral": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
    "qwen2": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
    "qwen3": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
    "gemma": {"num_hidden_layers": 28, "num_attention_heads": 16},
    "gemma2": {"num_hidden_layers": 26, "num_attention_heads": 8},
    "gemma3_text": {"num_hidden_layers": 26, "num_attention_heads": 8},
    "gemma4_text": {"num_hidden_layers": 30, "num_attention_heads": 8},
    "llama4_text": {"num_hidden_layers": 48, "num_attention_heads": 40},
}


@dataclass(frozen=True, slots=True)
class Keys:
    """A configuration, or an object in it."""

    values: Mapping[str, Any]
    where: str
    """prefix for messages, as ``text_config.``"""
    model_type: str
    notes: list[str]
    """what was assumed, for people: added to by whoever assumes something"""

    def told(self, name: str) -> str:
        """A key as it is called in this configuration, with where it is."""
        return self.where + next((key for key in NAMES.get(name, ()) if key in self.values), name)

    def has(self, name: str) -> bool:
        """Whether it is there, under any of its names, be it null."""
        return any(key in self.values for key in NAMES.get(name, (name,)))

    def note(self, text: str) -> None:
        """Add to the notes what is not there yet."""
        if text not in self.notes:
            self.notes.append(text)

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number; if it is missing what the model's class has, and else, or if it is null, ``default``.

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
        if not self.has(name) and (of_class := self._of_class(name)) is not None:
            return of_class
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
        if not isinstance(value, dict):
            return None
        return Keys(value, f"{self.where}{name}.", self.model_type, self.notes)

    def _of_class(self, name: str) -> int | None:
        value = DEFAULTS.get(self.model_type, {}).get(name)
        if value is None and self.where:
            value = DEFAULTS_WITHIN.get(self.model_type, {}).get(name)
        if value is not None:
            self.note(
                f"{self.where}{name} is not there: {value}, as models of the kind {self.model_type} have"
            )
        return value


def _shown(value: object) -> str:
    return repr(value)[:60]
