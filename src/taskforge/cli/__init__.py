"""The command line: data on stdout, messages on stderr, exit codes that scripts can use.

One file per noun. What takes long to import is imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script `taskforge`."""
    from taskforge.cli.root import run

    sys.exit(run(sys.argv[1:]))
