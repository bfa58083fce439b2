"""Open a namespace by what its bytes are; another dtype is another namespace, and sees none of its chunks."""

import sys

import mezzo
from mezzo import kvsize

# What `kvsize.parse_config(Path("config.json").read_bytes())` reads of Llama-3.1-8B.
SHAPE = kvsize.full_attention(layers=32, kv_heads=8, head_dim=128)
TOKENS = 16


def open_namespace(client: mezzo.Client, kv_dtype: str) -> mezzo.Client:
    """The engine's namespace; a client of its own."""
    return client.namespace(
        model="meta-llama/Llama-3.1-8B",
        weights_revision="0e9e39f",
        kv_dtype=kv_dtype,
        layout="layer,kv,token,head,dim",
        chunk_tokens=TOKENS,
        chunk_bytes=SHAPE,
    )


def main(address: str = "unix:///tmp/mezzo.sock") -> None:
    with (
        mezzo.Client(address) as client,
        open_namespace(client, "bf16") as bf16,
        open_namespace(client, "fp8") as fp8,
    ):
        size = kvsize.chunk_size(SHAPE, tokens=TOKENS, dtype="bf16")
        print(f"{size.terms[0].formula} = {size.bytes:,} bytes")
        with bf16.region(size.bytes) as region:
            region.view[:] = b"\x2a" * size.bytes
            bf16.put([b"hash of the first 16 tokens"], [region[:]])
        print(bf16.lookup([b"hash of the first 16 tokens"]).prefix, "chunk in", bf16.namespace_name)
        print(fp8.lookup([b"hash of the first 16 tokens"]).prefix, "chunks in", fp8.namespace_name)
        try:
            bf16.put([b"another hash"], [bytes(size.bytes + 1)])
        except mezzo.TooLarge as error:
            print("refused:", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
