"""The documents of the project, and the examples in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
WALKED = (
    "README.md",
    "examples/README.md",
    *sorted(f"docs/guides/{page.name}" for page in (ROOT / "docs/guides").glob("*.md")),
)
"""Pages whose examples are run from the first to the last."""

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A fenced block. `kind` is its first word, `words` what follows that."""

    page: str
    line: int
    kind: str
    words: tuple[str, ...]
    body: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the block shows, when its first line is a comment with one."""
        first = self.body.partition("\n")[0]
        return first[2:] if re.fullmatch(r"# [a-z_]+\.py", first) else None


def documents() -> list[Path]:
    return [
        *ROOT.glob("*.md"),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    ]


def examples(page: str) -> Iterator[Example]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        kind, *words = match["info"].split() or [""]
        yield Example(page, text.count("\n", 0, match.start()) + 1, kind, tuple(words), match["body"])
