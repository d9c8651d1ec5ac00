"""The smoke run of a recipe's page: runs its command, and writes what it printed into the page.

python -m tests.smoke [REGIME ...]
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from forget_callback.demo.smoke import WIDTH, make_taught, taught_facts
from forget_callback.demo.tiny import make_model, make_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(ROOT.glob("recipes/*/README.md"))
BLOCK = re.compile(r"(?<=<!-- smoke -->\n).*?(?=<!-- /smoke -->)", re.DOTALL)


def run(page: Path, directory: Path, **environment: str) -> str:
    """Runs the page's smoke command in a directory; gives the tables that it printed."""
    command = re.search(r"## Smoke run\n.*?```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    words = shlex.split(command.replace("\\\n", " "))
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=directory,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Trainers print their logs between the tables, as dicts; of a sweep, its own table says it all.
    lines = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith(("{", "teaching"))]
    begin = max(
        (at for at, line in enumerate(lines) if line.lstrip().startswith(("What ", "Forgetting during"))), default=0
    )
    return "\n".join(lines[begin:]).strip("\n") + "\n"


def make_untaught(root: Path) -> None:
    """Tiny models that know nothing, where smoke runs look for theirs: teaching them takes a minute each."""
    tokenizer = make_tokenizer([text for fact in taught_facts()[1] for text in fact.texts])
    for width in (64, WIDTH):
        torch.manual_seed(0)
        for made in (make_model(tokenizer, hidden_size=width), tokenizer):
            made.save_pretrained(root / f"model-{width}")


def shown(page: Path) -> str:
    """What the page shows between its two comments."""
    return BLOCK.search(page.read_text(encoding="utf-8"))[0]


def write(page: Path, directory: Path) -> None:
    """Puts what a run prints into the page."""
    begun = time.perf_counter()
    text = run(page, directory)
    seconds = round(time.perf_counter() - begun)
    said = f"Of the tiny model, in {seconds} seconds on two cores, its teaching not counted:"
    block = f"\n{said}\n\n```text\n{text}```\n\n"
    page.write_text(BLOCK.sub(lambda _: block, page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{page.parent.name}: {seconds} s", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        make_taught(Path(place) / "smoke-runs" / f"model-{WIDTH}")
        print(f"teaching: {time.perf_counter() - begun:.0f} s", flush=True)
        for page in PAGES:
            if page.parent.name in sys.argv[1:] or len(sys.argv) == 1:
                write(page, Path(place))
