"""Makes the pictures of the report that docs/reports.md shows, from a run directory.

python docs/pictures.py demo-run [--out examples]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from forget_callback.report import write_report

DESK, PHONE = {"width": 1200, "height": 1560}, {"width": 390, "height": 1500}
LOOKS = {"light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE)}
ROWS = 12  # of the table of items


def take(run: str, out: Path) -> list[Path]:
    """Writes the report's pictures into `out` and gives their paths."""
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as started:
        page_file = write_report(run, Path(directory) / "report.html")
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        made = []
        for name, (scheme, size) in LOOKS.items():
            page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
            page.goto(page_file.as_uri())
            made.append(out / f"report-{name}.png")
            page.screenshot(path=made[-1])
            if name == "light":
                page.get_by_label("Trajectory").select_option("1→0")
                late = f"#item-table tbody tr:nth-child(n + {ROWS + 1})"
                page.evaluate("late => document.querySelectorAll(late).forEach((row) => row.remove())", late)
                made.append(out / "report-items.png")
                page.locator("#item-table").screenshot(path=made[-1])
        browser.close()
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory, such as demo --model leaves")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "examples")
    given = parser.parse_args()
    print(*take(given.run, given.out), sep="\n")
