"""The records, usable without the bridge; they need only msgspec and the standard library."""
