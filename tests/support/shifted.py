"""``python -m tests.support.shifted SECONDS ...`` is ``asm-bridge ...`` with a clock that is wrong by so much."""

import sys
import time

if __name__ == "__main__":
    by, right = float(sys.argv.pop(1)), time.time
    time.time = lambda: right() + by

    from bridge.cli import main

    main()
