"""`python -m sapper`."""

from sapper.cli import main

main()
