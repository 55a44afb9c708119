"""``python -m bootc_fast``."""

import sys

from bootc_fast.cli import main

sys.exit(main())
