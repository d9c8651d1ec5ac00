"""README and docs: Python runs, commands are parsed, tables are the code's, links lead somewhere, the site builds.

The tour of the command line is run by `integration/test_demo.py`, the study is checked by `test_study.py`.
"""

import ast
import inspect
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, TrainingArguments
from trl import GRPOConfig, SFTConfig

import forget_callback
from forget_callback import ForgetCallback, ForgetMonitor, Probe, Recall, Snapshot, StopRule, load_probe
from forget_callback.cli.app import app
from forget_callback.probes.benchmarks import BENCHMARKS
from forget_callback.probes.hub import ALL
from forget_callback.probes.items import in_variant
from forget_callback.probes.records import parse_item
from forget_callback.runs.rows import ALL_METRICS
from forget_callback.tools.arguments import CallbackArguments
from forget_callback.tools.recipe import Recipe
from forget_callback.training.trackers import AXES

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "examples" / "README.md", ROOT / "recipes" / "README.md"]
LINKED = [*PAGES, *ROOT.glob("recipes/*/README.md")]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ITEMS = re.search(r"```json\n(.*?)```", (DOCS / "probes.md").read_text(encoding="utf-8"), re.DOTALL)[1]
BEST = "eval_forget_my_probe_knowledge_lost"
ON_CPU = {"use_cpu": True, "bf16": False, "max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none"}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "disable_tqdm": True, "seed": 0}
# Programs that are not ours: named in the docs, neither run nor parsed here.
OTHERS = {
    "pip": "installs",
    "vllm": "needs a GPU",
    "accelerate": "see test_recipes.py",
    "hf": "needs the network",
    "axolotl": "see integrations/test_axolotl.py",
    "swift": "see integrations/test_ms_swift.py",
    "bash": "see test_examples.py",
}
WORDS = 1000


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """A page's blocks in a language."""
    return [text for of, text in FENCE.findall(page.read_text(encoding="utf-8")) if of == language]


def commands(page):
    """Every command of a page's shell blocks, in words."""
    lines = [line for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def table(page, name):
    """The names in the first column between two comments of a page."""
    marked = re.search(rf"<!-- {name}.*?-->(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    first = [line.split("|")[1] for line in marked.splitlines() if line.startswith("|")]
    return [name for cell in first for name in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture
def names(make_model, tokenizer, tmp_path, monkeypatch):
    """What a reader has before a block begins, except `args`."""
    monkeypatch.chdir(tmp_path)
    Path("my_probe.jsonl").write_text(ITEMS, encoding="utf-8")
    talk = [{"messages": [{"role": r, "content": "hello"} for r in ("user", "assistant")]}] * 8
    tokens = Dataset.from_list([tokenizer("The capital of France is Paris")] * 8)
    return {
        "model": make_model(),
        "tokenizer": tokenizer,
        "train_dataset": Dataset.from_list(talk),
        "eval_dataset": Dataset.from_list(talk[:2]),
        "prompts": Dataset.from_list([{"prompt": row["messages"][:1]} for row in talk]),
        "reward": lambda completions, **_: [float(len(c[0]["content"])) for c in completions],
        "train_tokens": tokens,
        "eval_tokens": tokens,
        "collator": DataCollatorForLanguageModeling(tokenizer, mlm=False),
    }


def arguments(block):
    """The arguments that the text around a block describes."""
    if "GRPOTrainer" in block:
        return GRPOConfig("out", **ON_CPU, num_generations=4, max_completion_length=4, disable_tqdm=True)
    if "import Trainer" in block:
        best = {"load_best_model_at_end": True, "metric_for_best_model": BEST, "greater_is_better": False}
        return TrainingArguments("out", **ON_CPU, **EVALUATED, **best, save_strategy="steps", save_steps=1)
    return SFTConfig("out", **ON_CPU, **EVALUATED, max_length=32)


def recorded_run():
    """The run that the page on statistics reads: 10 of 300 items lost at each of seven steps."""
    probe = Probe("facts", [Recall(f"r{i}", "", "x") for i in range(300)])
    monitor = ForgetMonitor(probe, "runs/sft")
    for step in range(8):
        correct = np.arange(300) >= 10 * step
        taken = Snapshot("facts", probe.fingerprint, step, np.array(probe.ids), correct.astype(float))
        monitor.observe(step, taken, samples_seen=100.0 * step)


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize("page, block", PYTHON, ids=[f"{name_of(page)}-{i}" for i, (page, _) in enumerate(PYTHON)])
def test_python_runs_as_it_stands(page, block, names, capsys):
    if page.name == "statistics.md":
        recorded_run()
    found = {**names, "args": arguments(block)}
    exec(compile(block, name_of(page), "exec"), found)
    if ".train()" in block or "ForgetMonitor" in block:
        folder = Path("runs/own-loop" if "ForgetMonitor" in block else "out") / "forget"
        assert len(list(folder.glob("snapshots/*/*.parquet"))) >= 2
        assert (folder / "history.parquet").is_file()
    if "retention" in block:
        assert found["curve"].survival[-1] == pytest.approx(230 / 300)
        assert found["fit"].forecast(1400).knowledge_lost[0] == pytest.approx(140 / 300, abs=0.05)


def test_there_are_blocks_for_every_trainer():
    for name in ("SFTTrainer", "GRPOTrainer", "import Trainer", "ForgetMonitor"):
        assert any(name in block for _, block in PYTHON)


def ours(words):
    """The words after `forget-callback` or `python -m forget_callback`, on any launcher; None for other programs."""
    if words[0] == "forget-callback":
        return words[1:]
    return words[words.index("forget_callback") + 1 :] if "forget_callback" in words else None


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    "page, words", COMMANDS, ids=[f"{name_of(page)}-{' '.join(words)[:40]}" for page, words in COMMANDS]
)
def test_commands_are_parsed_and_name_what_exists(page, words):
    if (given := ours(words)) is not None:
        verb = typer.main.get_command(app).commands[given[0]]
        verb.make_context(given[0], list(given[1:]))  # reads every option and argument, runs nothing
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif words[0] in ("python", "torchrun"):
        script = next(word for word in words if word.endswith(".py"))
        assert (ROOT / script).is_file()
    else:
        assert words[0] in OTHERS, f"{words[0]}: run it, parse it, or say in OTHERS why not"
    for config in [word for word in words if word.endswith((".yaml", ".yml"))]:
        assert (ROOT / config).is_file()


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_commands_within_the_text_exist(page):
    named = re.findall(r"`forget-callback ([a-z]\w*)", page.read_text(encoding="utf-8"))
    assert set(named) <= set(typer.main.get_command(app).commands)


def test_a_step_that_uses_the_action_gives_it_its_inputs():
    action = yaml.safe_load((ROOT / ".github" / "actions" / "forgetting" / "action.yml").read_text())
    steps = [step for page in PAGES for block in blocks(page, "yaml") for step in steps_of(block)]
    assert steps
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+/\.github/actions/forgetting@\w+", step["uses"])
        required = {name for name, one in action["inputs"].items() if one.get("required")}
        assert required <= set(step["with"]) <= set(action["inputs"])


def steps_of(block):
    """The steps of a GitHub workflow, where a block is some."""
    found = yaml.safe_load(block)
    return found if isinstance(found, list) else []


def test_yaml_blocks_are_recipes_or_of_an_example(names):
    examples = [yaml.safe_load(path.read_text()) for path in (ROOT / "examples" / "integrations").glob("*.yaml")]
    found = [block for page in PAGES for block in blocks(page, "yaml") if not steps_of(block)]
    assert found
    for block in found:
        if any(example.items() >= yaml.safe_load(block).items() for example in examples):
            continue  # a part of another trainer's configuration
        Path("config.yaml").write_text(block, encoding="utf-8")
        recipe = Recipe.read("config.yaml", ["--bf16", "false", "--use_cpu", "true"])
        assert recipe.forget.probes == yaml.safe_load(block)["probes"]
        recipe.forget.callback()  # its probes, schedule and rules are valid


def test_json_blocks_are_items(names):
    assert [item.kind for item in load_probe("my_probe.jsonl").items] == ["multiple_choice", "recall", "generation"]
    lines = [line for page in PAGES for block in blocks(page, "json") for line in block.splitlines()]
    found = [parse_item(json.loads(line)) for line in lines]
    assert ITEMS.splitlines()[0] in lines
    for item in found:  # a variant lists the same options, in an order of its own
        for number, variant in enumerate(item.variants, start=2):
            if variant.order:
                assert variant.order[in_variant(item, number).answer] == item.answer


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_checked(page):
    """`text` is output and names, which nobody types; all else is run or parsed above."""
    text = page.read_text(encoding="utf-8")
    found = FENCE.findall(text)
    assert {language for language, _ in found} <= {"python", "bash", "yaml", "json", "text"}
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.MULTILINE)), "a block is indented or never closed"


def test_the_readme_is_short():
    words = len((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words <= WORDS, f"README.md has {words} words of at most {WORDS}: move what is new to docs/"


def test_the_metric_tables_are_the_codes():
    named = table(DOCS / "metrics.md", "metrics")
    assert len(named) == len(set(named))
    assert set(named) == set(ALL_METRICS) | {*AXES, "forget/probe_seconds", "forget/overhead"}


def test_the_argument_table_is_the_callbacks():
    assert sorted(table(DOCS / "training.md", "arguments")) == sorted(inspect.signature(ForgetCallback).parameters)


def test_the_signature_of_a_stop_rule_is_the_codes():
    shown = re.search(r"`StopRule\((metric, .*?)\)`", (DOCS / "stopping-and-gates.md").read_text(encoding="utf-8"))[1]
    shown = inspect.signature(eval(f"lambda {shown}: None")).parameters.values()
    real = inspect.signature(StopRule).parameters.values()
    assert [(one.name, one.default, one.kind) for one in shown] == [(one.name, one.default, one.kind) for one in real]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_benchmarks_that_are_named_exist(page):
    named = re.findall(r"\bhub:([a-z][\w-]*)", page.read_text(encoding="utf-8"))
    assert set(named) <= {ALL, *BENCHMARKS}


def test_the_command_table_is_the_command_lines():
    assert sorted(table(DOCS / "command-line.md", "commands")) == sorted(typer.main.get_command(app).commands)


def test_the_extras_are_pyprojects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"dev", "docs", "test"}
    assert set(table(DOCS / "getting-started.md", "extras")) == extras
    for page in PAGES:
        for group in re.findall(r"forget-callback\[([\w,-]+)\]", page.read_text(encoding="utf-8")):
            assert set(group.split(",")) <= extras, name_of(page)


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: forget_callback\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(forget_callback.__all__)


def test_numbers_about_the_builtin_facts_are_true():
    facts = load_probe("builtin:facts")
    categories = {item.category for item in facts.items}
    assert f"{len(facts) // 2} facts in {len(categories)} categories" in (DOCS / "probes.md").read_text(
        encoding="utf-8"
    )
    assert f"{len(facts) // 2} facts" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_warnings_are_the_codes():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^\| "(.+?)" \|', page, re.MULTILINE)
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "forget_callback").rglob("*.py")]
    texts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    written = [text for text in texts if isinstance(text, str)]
    assert quoted
    assert [quote for quote in quoted if not any(quote in text for text in written)] == []


def headings(page):
    """The anchors of a page, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.in_turn(1)
def test_the_site_builds_without_a_warning(tmp_path):
    """Strict: a broken link, a page that no menu has, a name that the reference does not find are errors."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    pages = {path.parent.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("index.html")}
    assert {".", "recipes", "examples", *(page.stem for page in DOCS.glob("*.md") if page.stem != "index")} <= pages
    reference = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert all(f'id="forget_callback.{name}"' in reference for name in forget_callback.__all__)
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)[^>]+(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text(encoding="utf-8")
        )
        assert not [url for url in loaded if "github.com" not in url], "the site loads nothing from elsewhere"


def test_the_keys_of_a_config_of_run_are_all_named():
    (row,) = re.findall(r"(?m)^\| `--config FILE` \|.*$", (DOCS / "without-code.md").read_text(encoding="utf-8"))
    assert set(CallbackArguments.__dataclass_fields__) <= set(re.findall(r"`(\w+)`", row))
