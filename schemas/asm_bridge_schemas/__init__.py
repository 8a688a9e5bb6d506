"""The records, usable without the bridge: needs msgspec and the standard library only."""
