"""Text from elsewhere, made safe for a terminal."""


def printable(text: str) -> str:
    """Without control characters: what is in Kafka was written by others, and a terminal obeys some of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
