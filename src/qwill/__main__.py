"""`python -m qwill` is `qwill`."""

import sys

from qwill.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
