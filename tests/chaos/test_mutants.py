"""The broken builds that show what the chaos run catches."""

import subprocess
import sys

import pytest

from tests.support.chaos.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_changes_the_code_of_today(name: str) -> None:
    """Each mutant still finds the lines that it breaks."""
    program = f"from tests.support.chaos.mutants import MUTANTS; MUTANTS[{name!r}]()"
    subprocess.run([sys.executable, "-c", program], check=True)
