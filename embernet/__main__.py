"""`python -m embernet` is the command `embernet`."""

from embernet.cli.app import main

main()
