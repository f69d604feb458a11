"""`python -m selmix`."""

from selmix.commands import main

if __name__ == "__main__":
    main()
