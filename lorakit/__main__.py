"""`python -m lorakit`, the same as the command `lorakit`."""

import sys

from lorakit.cli import main

sys.exit(main())
