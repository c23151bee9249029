"""Puts the figures of docs/operations/bench.json into the documents that show them: `python scripts/readme_bench.py`.

The file is what `make bench` writes; its figures are shown as they come.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from taskforge.bench.figures import Figure
from taskforge.bench.run import Report

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "operations" / "bench.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations" / "benchmarks.md")
_BLOCK = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.DOTALL)
_NONE = "Not measured yet for this version; `make bench` measures your machine."


def with_table(text: str) -> str:
    """`text` with the table of figures between its markers. Raises ValueError when it has none."""
    block = "\n" + _table(_read()) + "\n\n"
    changed, count = _BLOCK.subn(lambda found: found[1] + block + found[2], text)
    if count != 1:
        raise ValueError(f"the page has {count} places for the figures and must have one")
    return changed


def _read() -> Report | None:
    return msgspec.json.decode(FIGURES.read_bytes(), type=Report) if FIGURES.exists() else None


def _table(report: Report | None) -> str:
    if report is None:
        return _NONE
    lines = [
        "| | measured | COPY in the same run | ratio | promised | met |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for figure in report.figures:
        ceiling = "" if figure.ceiling is None else f"{figure.ceiling:,.0f}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        met = {True: "yes", False: "no", None: ""}[figure.is_met]
        asked = figure.asked.replace("|", "\\|")
        lines.append(f"| {figure.name} | {_value(figure)} | {ceiling} | {ratio} | {asked} | {met} |")
    lines += [
        "",
        f"Taken on {report.taken_at:%Y-%m-%d}: {report.machine}; PostgreSQL {report.postgresql}, its default settings, "
        "commits that wait for the disk.",
    ]
    return "\n".join(lines)


def _value(figure: Figure) -> str:
    return f"{figure.value:,.{2 if figure.value < 100 else 0}f} {figure.unit}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
