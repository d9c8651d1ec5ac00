"""Merges two models at several weights, and shows what each merge forgot of the one and kept of the other.

python recipes/merge.py --config recipes/model-merging/config.yaml [--smoke] [--out DIR]

Each method is a run of its own under the output directory, in which a step is a weight in percent; one page shows all.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from rich.console import Console

from forget_callback import load_probe
from forget_callback.report import write_report
from forget_callback.runs.store import Store
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.loading import load_tokenizer
from forget_callback.tools.dial import best_point, dial_table, turn_dial


@dataclass
class Merging:
    """The keys of the YAML: models, what is not to be forgotten (`probes`), and what `after` is good at (`task`)."""

    before: str
    after: str
    task: str
    probes: list[str] = field(default_factory=lambda: ["builtin:facts"])
    probe_limit: int | None = None
    methods: list[str] = field(default_factory=lambda: ["linear", "slerp"])
    weights: list[float] = field(default_factory=lambda: [0.2, 0.5, 0.8, 1.0])
    output_dir: str = "runs/model-merging"
    save: bool = False


def merge(config: Merging) -> None:
    """Scores every merge, prints a table a method and writes the page."""
    tokenizer, out = load_tokenizer(config.before), Path(config.output_dir)
    probes = [bind(load_probe(spec, limit=config.probe_limit), tokenizer) for spec in config.probes]
    task = bind(load_probe(config.task, limit=config.probe_limit), tokenizer)
    stores = []
    for method in config.methods:
        save = out / method / "best" if config.save else None
        points = turn_dial(config.before, config.after, probes, task, shares=config.weights, method=method, save=save)
        Console().print(f"\n{method}", dial_table(points, best_point(points), task=task.name))
        store = Store(out / method)
        store.set_aside()
        store.begin([*probes, task])
        for point in points:
            for snapshot in (*point.probes, point.task):
                store.write(replace(snapshot, step=round(100 * point.share)))
        stores.append(store)
    print(f"page {write_report(stores, out / 'report.html', stages=False)}")


def smoke(out: Path) -> Merging:
    """The tiny model and its fine-tuning on invented facts, made here."""
    from forget_callback.demo.smoke import FACTS, PROBES, ROOT, WIDTH, smoke
    from forget_callback.tools.recipe import Recipe

    recipe = Path(__file__).parent / "sft-from-base" / "config.yaml"
    trained = ROOT / "fine-tuned"
    if not (trained / "config.json").is_file():
        Recipe.read(recipe, smoke(str(recipe), str(trained))).run()
    task = f"{ROOT / 'data' / 'task.jsonl'}?chat=true"
    return Merging(str(ROOT / f"model-{WIDTH}"), str(trained), task, list(PROBES), FACTS, output_dir=str(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Merges two models at several weights, and shows what each forgot.")
    parser.add_argument("--config", required=True, help="a recipe's YAML")
    parser.add_argument("--smoke", action="store_true", help="the tiny model and its own fine-tuning, on a CPU")
    parser.add_argument("--out", help="where the runs go; the recipe's output_dir by default")
    given = parser.parse_args()
    if given.smoke:
        merge(smoke(Path(given.out or "smoke-runs/model-merging")))
    else:
        read = Merging(**yaml.safe_load(Path(given.config).read_text(encoding="utf-8")))
        merge(replace(read, output_dir=given.out or read.output_dir))
