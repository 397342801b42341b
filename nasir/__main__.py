"""`python -m nasir`."""

import sys

from nasir.cli.main import main

sys.exit(main())
