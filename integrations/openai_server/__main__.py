"""``python -m darwin_align.integrations.openai_server``."""

from __future__ import annotations

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
