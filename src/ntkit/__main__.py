"""`python -m ntkit` is the command `ntkit`."""

from ntkit.cli import main

main()
