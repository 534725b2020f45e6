"""The command `embernet`, also as `python -m embernet`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it cleanly from the first import on."""
    try:
        from embernet.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
