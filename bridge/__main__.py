"""``python -m bridge`` is ``asm-bridge``."""

from bridge.cli import main

if __name__ == "__main__":
    main()
