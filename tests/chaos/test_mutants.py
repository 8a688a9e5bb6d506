"""The mutants that show what the chaos run finds."""

import subprocess
import sys

import pytest

from tests.support.chaos.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_changes_the_code_of_today(name: str) -> None:
    """Each mutant finds the lines in today's code that it breaks."""
    program = f"from tests.support.chaos.mutants import MUTANTS; MUTANTS[{name!r}]()"
    subprocess.run([sys.executable, "-c", program], check=True)
