"""Makes foreign text safe for a terminal."""


def printable(text: str) -> str:
    """The text without control characters: records in Kafka come from other programs, and a terminal obeys some of
    them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
