"""`python -m landscape` is the command `landscape`."""

import sys

from landscape.cli import main

if __name__ == "__main__":
    sys.exit(main())
