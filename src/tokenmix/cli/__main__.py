"""`python -m tokenmix.cli`, the same as `tokenmix`."""

import sys

from tokenmix.cli import main

if __name__ == "__main__":
    sys.exit(main())
