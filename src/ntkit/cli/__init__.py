"""The command line: `ntkit study`, `ntkit reproduce`, `ntkit doctor`."""

from ntkit.cli.app import main

__all__ = ["main"]
