"""Devices: one file each, all behind `mezzo_server.blockstore.io.Device`. See docs/devices.md."""
