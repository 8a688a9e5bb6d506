"""asm-kafka-bridge: TCN's Agent State Manager to Apache Kafka, and back."""


def __getattr__(name: str) -> str:
    """``__version__``, read on demand: ``importlib.metadata`` takes longer to import than all of Typer."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("asm-kafka-bridge")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
