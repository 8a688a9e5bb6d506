"""``asm-bridge bench``: what the bridge costs and how fast it is, beside what people would run instead."""
