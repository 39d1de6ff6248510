"""The command line: `ntkit study`, `ntkit doctor`."""

from ntkit.cli.app import main

__all__ = ["main"]
