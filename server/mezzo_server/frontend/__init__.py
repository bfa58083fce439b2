"""The front-end: the SDK behind a gRPC face, in a process of its own. It holds nothing but connections."""
