"""The metadata engine: one small interface for what must outlive processes, and what implements it."""
