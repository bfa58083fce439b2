"""The server's commands, one module each; `options` makes their flags out of the schema of settings."""
