"""``python -m bootc_fast``."""

from bootc_fast.cli import run_and_exit

run_and_exit()
