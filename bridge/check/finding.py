"""The finding of a check."""

from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``found`` describes the result, ``advice`` what to do about it (empty if all is well)."""

    check: str
    result: Result
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "warning", found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "problem", found, advice)


def skipped(check: str, found: str) -> Finding:
    return Finding(check, "skipped", found)


def failed(findings: list[Finding]) -> bool:
    return any(finding.result == "problem" for finding in findings)
