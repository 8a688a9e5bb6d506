"""HTTP for requests that are sent again and again.

A general client builds a request, walks a pool and hands the answer over through threads or futures for each poll: 55
to 95 us of CPU. Here the bytes of a request are made once, written as they are, and the answer is called back: 28 to 39
us (docs/benchmarks.md). HTTP/1.1 is parsed by httptools (llhttp), HTTP/2's headers by hpack, TLS is uvloop's.
"""
