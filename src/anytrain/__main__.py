"""`python -m anytrain`: the same command line."""

import sys

from anytrain.cli.main import main

sys.exit(main())
