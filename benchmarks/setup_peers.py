"""Make the peers' environments: `python benchmarks/setup_peers.py [--again]`.

What exists already is left as it is. A peer that cannot be installed is reported and is absent from the results;
that is no error, for the other rows can still be measured.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from peers.environments import PEERS, SetupFailed, make


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the environments of the libraries that ntkit is compared with.")
    parser.add_argument("--again", action="store_true", help="make them anew, also where they exist")
    arguments = parser.parse_args()
    console = Console()
    for environment in PEERS:
        if environment.ready and not arguments.again:
            console.print(f"{environment.name}: there already")
            continue
        with console.status(f"{environment.name}: installing {', '.join(environment.requirements)}"):
            try:
                make(environment)
            except SetupFailed as failure:
                console.print(f"{environment.name}: not available: {failure}", style="yellow", markup=False)
                continue
        console.print(f"{environment.name}: ready")


if __name__ == "__main__":
    main()
