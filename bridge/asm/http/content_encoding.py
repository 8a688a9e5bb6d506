"""Bodies in a content coding (RFC 9110, section 8.4.1) that the request did not ask for: some gateways
compress anyway.
"""

import zlib

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class ContentError(ValueError):
    """A body that does not match its coding, or is larger than allowed."""


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its gzip or deflate coding, at most ``limit`` bytes. Raises ``ContentError``.

    With an unknown coding, it is returned unchanged: its reader will find that it is not JSON.
    """
    for coding in reversed(encoding.lower().split(",")):
        match coding.strip():
            case "gzip" | "x-gzip":
                body = _inflate(body, _GZIP, limit)
            case "deflate":  # zlib's format; some send the raw one (section 8.4.1.2)
                body = _inflate(body, _ZLIB if body[:1] and body[0] & 0x0F == 8 else _RAW, limit)
            case "" | "identity":
                pass
            case _:
                return body
    return body


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    """A gzip body may have several members; decoding stops at ``limit``, so that a small body costs little."""
    found = bytearray()
    while body:
        inflater = zlib.decompressobj(window_bits)
        try:
            found += inflater.decompress(body, limit + 1 - len(found))
        except zlib.error as error:
            raise ContentError(f"the body cannot be decompressed: {error}") from error
        if len(found) > limit:
            raise ContentError(f"the decompressed body is longer than {limit} bytes")
        if not inflater.eof:
            raise ContentError("the compressed body is cut short")
        body = inflater.unused_data if window_bits == _GZIP else b""
    return bytes(found)
