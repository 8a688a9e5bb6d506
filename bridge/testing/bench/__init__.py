"""``asm-bridge bench``: the cost and speed of the bridge, compared with pollers that you might run instead."""
