"""Launcher for a checkout: `python cli.py VERB` is `selmix VERB`."""

from selmix.commands import main

if __name__ == "__main__":
    main()
