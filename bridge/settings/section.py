"""The base of every section of the settings."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Problem = tuple[str, str]
"""(key, what is wrong and what to do)."""


def setting(default: Any, meaning: str) -> Any:
    return Field(default=default, description=meaning)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def problems(self) -> Iterator[Problem]:
        """Faults of a combination of keys; the key is without the section."""
        yield from ()
