"""Administration: one interface for operators, in the place of the metadata and over gRPC; the audit log."""
