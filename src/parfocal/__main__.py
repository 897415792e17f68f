"""`python -m parfocal` is the command `parfocal`."""

import sys

from parfocal.cli import main

sys.exit(main())
