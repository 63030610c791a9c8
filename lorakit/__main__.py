"""`python -m lorakit`, the same as the command `lorakit`."""

from lorakit.cli import run

run()
