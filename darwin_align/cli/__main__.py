"""``python -m darwin_align.cli``."""

from __future__ import annotations

import sys

from darwin_align.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
