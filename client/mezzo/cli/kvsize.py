"""``mezzo kvsize``: bytes of KV cache that a model has for each token and chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from mezzo.cli.options import size
from mezzo.cli.output import json_result, remark, result
from mezzo.errors import InvalidArgument
from mezzo.kvsize import CONFIG_BYTES_MAX, ChunkSize, Scales, chunk_size, parse_config
from mezzo.sizes import about_size

CONFIG_NAME = "config.json"


class SizeTerm(msgspec.Struct, frozen=True):
    """Layers that keep the same, and their bytes."""

    what: str
    formula: str
    layers: int
    window: int
    bytes_per_token: int
    bytes: int


class SizeReport(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    model: str
    tokens: int
    dtype: str
    tp: int
    pp: int
    pp_rank: int
    bytes_per_token: int
    chunk_bytes: int
    terms: list[SizeTerm]
    notes: list[str]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("kvsize")(kvsize)


def kvsize(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="A model's config.json as Hugging Face has it, or the model's folder."
        ),
    ],
    *,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens in a chunk.")] = 256,
    dtype: Annotated[
        str, typer.Option(help="Of the cache: bf16, fp16, fp32, fp8, int8, fp4, int4.")
    ] = "bf16",
    tp: Annotated[int, typer.Option(min=1, help="Ranks of tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Ranks of pipeline parallelism.")] = 1,
    pp_rank: Annotated[int, typer.Option(min=0, help="Which of them.")] = 0,
    pp_layers: Annotated[
        str,
        typer.Option(
            metavar="N,N,...", help="Layers of each pipeline rank.", show_default="evenly, as vLLM does"
        ),
    ] = "",
    scale_bytes: Annotated[
        int, typer.Option(min=0, help="Bytes of a scale of a quantised cache; 0: not in the chunk.")
    ] = 0,
    scale_elements: Annotated[
        int, typer.Option(min=0, help="Elements that share a scale.", show_default="a head's key, or value")
    ] = 0,
    state_bytes: Annotated[
        int,
        typer.Option(
            parser=size,
            metavar="SIZE",
            help="Bytes of one layer's recurrent state on one rank, of a hybrid model.",
            show_default="0",
        ),
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say how many bytes a chunk has: what a namespace's `chunk_bytes` is.

    The file is only read: nothing of the model is loaded or executed.
    """
    shape = parse_config(read_config(config))
    answer = chunk_size(
        shape,
        tokens=tokens,
        dtype=dtype,
        tp=tp,
        pp=pp,
        pp_rank=pp_rank,
        pp_layers=_split(pp_layers),
        scales=Scales(scale_bytes, scale_elements),
        state_bytes=state_bytes,
    )
    if json:
        report = SizeReport(
            shape.model_type,
            answer.tokens,
            answer.dtype,
            answer.tp,
            answer.pp,
            answer.pp_rank,
            answer.bytes_per_token,
            answer.bytes,
            [
                SizeTerm(term.what, term.formula, term.layers, term.window, term.bytes_per_token, term.bytes)
                for term in answer.terms
            ],
            list(shape.notes),
        )
        json_result(msgspec.json.encode(report))
        return
    result(_table(answer, shape.model_type))
    for note in shape.notes:
        remark(f"note: {note}")
    if not state_bytes and any(layer.state for layer in shape.layers):
        states = sum(layer.state for layer in shape.layers)
        remark(f"note: {states} layers keep a recurrent state, which is not counted; give --state-bytes")


def _table(answer: ChunkSize, model: str) -> Table:
    title = f"{model or 'model'}, {answer.dtype}, chunks of {answer.tokens:,} tokens"
    if answer.tp > 1:
        title += f", one of {answer.tp} tensor-parallel ranks"
    if answer.pp > 1:
        title += f", pipeline rank {answer.pp_rank} of {answer.pp}"
    table = Table(
        title=title, title_justify="left", title_style="", show_footer=True, box=None, header_style="bold"
    )
    table.add_column("layers", "in all")
    totals = f"{about_size(answer.bytes_per_token)} a token, {about_size(answer.bytes)} a chunk"
    table.add_column("bytes of a chunk", totals)
    table.add_column("a token", f"{answer.bytes_per_token:,}", justify="right")
    table.add_column("a chunk", f"{answer.bytes:,}", justify="right")
    for term in answer.terms:
        table.add_row(
            term.what,
            term.formula,
            f"{term.bytes_per_token:,}" if term.bytes_per_token else "",
            f"{term.bytes:,}",
        )
    return table


def _split(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers", param_hint="--pp-layers") from None


def read_config(path: Path) -> bytes:
    """A model's configuration, bounded; a folder stands for the file in it. Raises InvalidArgument, OSError."""
    if path.is_dir():
        path = path / CONFIG_NAME
    with path.open("rb") as file:
        data = file.read(CONFIG_BYTES_MAX + 1)
    if len(data) > CONFIG_BYTES_MAX:
        raise InvalidArgument(f"{path} has more than {CONFIG_BYTES_MAX} bytes: that is no config.json")
    return data
