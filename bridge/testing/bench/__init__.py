"""``asm-bridge bench``: the cost and speed of the bridge, beside the pollers that you might run instead."""
