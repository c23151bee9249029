"""The scripts that write parts of the documents, as modules."""

from __future__ import annotations

import sys

from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
try:
    import event_meanings
    import readme_bench
    import reference
    import source_facts
finally:
    sys.path.remove(str(ROOT / "scripts"))

__all__ = ["event_meanings", "readme_bench", "reference", "source_facts"]
