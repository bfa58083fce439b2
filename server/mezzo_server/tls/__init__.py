"""Certificates of a node's servers: read, checked, looked at again, and what TLS makes of them."""
