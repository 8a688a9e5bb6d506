"""What several tests need."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "schemas")))
"""PYTHONPATH of the programs that tests start: they run the code of this tree, whatever is installed."""
