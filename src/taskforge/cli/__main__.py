from __future__ import annotations

from taskforge.cli import main

main()
