"""The recipes: TRL reads every config, and what their pages name exists. Nothing is trained or fetched here."""

import dataclasses
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from forget_callback.cli.app import app
from forget_callback.probes.benchmarks import BENCHMARKS
from forget_callback.probes.hub import ALL
from forget_callback.tools.recipe import ForgetArguments, Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
PAGES = sorted(RECIPES.glob("*/README.md"))
LAUNCH = sorted(RECIPES.glob("accelerate/*.yaml"))
MERGES = sorted(RECIPES.glob("model-merging/*.yaml"))
CONFIGS = [path for path in sorted(RECIPES.glob("*/*.yaml")) if path not in {*LAUNCH, *MERGES}]
ON_CPU = ["--bf16", "false", "--use_cpu", "true"]
REGIMES = {
    *("domain-continual-pretraining", "sft-from-base", "grpo-from-base", "instruction-tuning"),
    *("sft-from-instruct-small-data", "sft-from-instruct-large-data", "grpo-from-instruct", "model-merging"),
    *("data-scale-sweep", "model-size-sweep", "sft-versus-rl", "lora-versus-full", "replay"),
}
NUMBER = re.compile(r"^\d+(\.\d+)?(e[+-]?\d+)?$", re.IGNORECASE)


def short(path):
    return str(path.relative_to(RECIPES))


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(page):
    """Every command of a page's bash blocks, in words."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


ALL_COMMANDS = [(page, words) for page in [RECIPES / "README.md", *PAGES] for words in commands(page)]


def after(words, option):
    """The values that follow an option, up to the next one."""
    if option not in words:
        return []
    rest = words[words.index(option) + 1 :]
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


def without(words, *options):
    """The words without some options and their values."""
    kept, dropping = [], False
    for word in words:
        dropping = word in options or (dropping and not word.startswith("--"))
        kept += [] if dropping else [word]
    return kept


def check_spec(spec):
    """A probe spec of a known form; nothing is loaded."""
    path, _, query = spec.partition("?")
    source, colon, name = path.partition(":")
    if source == "hub" and colon:
        assert name in {ALL, *BENCHMARKS}, spec
    elif source == "lm-eval" and colon:
        assert re.fullmatch(r"\w+", name), spec
    else:
        assert path == "builtin:facts" or path.endswith(".jsonl"), spec
    assert all("=" in option for option in query.split("&") if query), spec


def check_runner(words):
    """A command of one of our runners, from the name of the script on."""
    script, options = Path(words[0]), words[1:]
    assert script.parent == Path("recipes")
    assert (ROOT / script).is_file()
    if script.name in ("study.py", "study_tables.py"):
        assert without(options, "--out") == []
        return
    configs = after(options, "--config")
    assert configs
    assert all((ROOT / config).is_file() for config in configs), configs
    if script.name == "merge.py":
        assert without(options, "--config", "--smoke", "--out") == []
        return
    if script.name == "sweep.py":
        check_sweep(configs, options)
        return
    config = ROOT / configs[0]
    assert len(configs) == 1
    assert loaded(config).get("trainer", "sft") == script.stem
    Recipe.read(config, [*without(options, "--config", "--smoke", "--out"), *ON_CPU])


def check_sweep(configs, options):
    assert without(options, "--config", "--over", "--seeds", "--launch", "--smoke", "--out") == []
    for pair in after(options, "--over"):
        key, _, values = pair.partition("=")
        for config in configs:
            for value in values.split(",") if key != "smoke" else ():
                Recipe.read(ROOT / config, [f"--{key}", value, *ON_CPU])
    for launch in after(options, "--launch"):
        words = shlex.split(launch)
        assert words[:2] == ["accelerate", "launch"]
        check_launch([*words[2:], "recipes/sft.py"])


def check_launch(words):
    given = launch_command_parser().parse_args(words)
    assert ROOT / given.config_file in LAUNCH
    return [given.training_script, *given.training_script_args]


def check_command_line(words):
    """A command of forget-callback: it exists, and has these options."""
    verb = typer.main.get_command(app).commands[words[0]]
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, words
    for spec in [*after(words, "--probe"), *after(words, "--task")]:
        check_spec(spec)
    if words[0] == "verify":
        Recipe.read(ROOT / words[1], ON_CPU)


def test_every_regime_has_a_folder_with_a_page():
    assert {page.parent.name for page in PAGES} == REGIMES
    index = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}/README.md)" in index for name in REGIMES)
    assert len(CONFIGS) >= len(REGIMES) + 2


@pytest.mark.parametrize("config", CONFIGS, ids=short)
def test_trl_reads_the_config(config):
    recipe = Recipe.read(config, ON_CPU)
    assert recipe.forget.trainer == loaded(config)["trainer"]
    assert recipe.model.model_name_or_path
    assert recipe.script.dataset_name
    assert recipe.training.output_dir.startswith("runs/")
    assert recipe.forget.probes
    for spec in recipe.forget.probes:
        check_spec(spec)
    if recipe.forget.trainer == "grpo":
        assert recipe.forget.reward_funcs


@pytest.mark.parametrize("config", CONFIGS, ids=short)
def test_numbers_are_numbers_and_keys_stand_once(config):
    keys = re.findall(r"^(\w+):", config.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(keys) == len(set(keys))
    as_text = [key for key, value in loaded(config).items() if isinstance(value, str) and NUMBER.match(value)]
    assert as_text == [], "YAML reads 1e-5 as text: write 1.0e-5"


@pytest.mark.parametrize("config", CONFIGS, ids=short)
def test_no_two_recipes_write_to_the_same_place(config):
    places = [loaded(other)["output_dir"] for other in CONFIGS]
    assert places.count(loaded(config)["output_dir"]) == 1


def test_a_key_that_nobody_knows_is_an_error(tmp_path):
    changed = tmp_path / "config.yaml"
    changed.write_text(CONFIGS[0].read_text(encoding="utf-8") + "no_such_key: 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no_such_key"):
        Recipe.read(changed, ON_CPU)


@pytest.mark.parametrize("config", MERGES, ids=short)
def test_the_merge_config_has_the_keys_of_the_merge(config):
    merging = runpy.run_path(str(RECIPES / "merge.py"))["Merging"]
    read = merging(**loaded(config))
    assert {type(weight) for weight in read.weights} == {float}
    assert all(0 <= weight <= 1 for weight in read.weights)
    assert set(read.methods) <= {"linear", "slerp"}
    for spec in [*read.probes, read.task]:
        check_spec(spec)


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_page_names_its_own_configs_and_has_its_sections(page):
    text = page.read_text(encoding="utf-8")
    named = {word for words in commands(page) for word in words}
    own = {f"recipes/{short(path)}" for path in page.parent.glob("*.yaml")}
    assert own
    assert own <= named
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections == [
        *("Run", "Hardware and time", "What to look at", "What the paper found", "Known wrong turns", "Smoke run")
    ]
    smoke = text[text.index("## Smoke run") :]
    assert len(re.findall(r"--smoke|--over smoke=", smoke)) == 1
    assert smoke.index("```bash") < smoke.index("<!-- smoke -->") < smoke.index("<!-- /smoke -->")


@pytest.mark.parametrize(
    ("page", "words"), ALL_COMMANDS, ids=[f"{short(p)}-{' '.join(w)[:60]}" for p, w in ALL_COMMANDS]
)
def test_every_command_has_its_files_and_options(page, words):
    if words[:2] == ["accelerate", "launch"]:
        check_runner(check_launch(words[2:]))
    elif words[0] == "torchrun":
        rest = words[words.index("--nproc_per_node") + 2 :]
        if rest[:2] == ["-m", "forget_callback"]:
            check_command_line(rest[2:])
        else:
            assert all((ROOT / path).is_file() for path in after(rest, "--deepspeed"))
            check_runner(without(rest, "--deepspeed"))
    elif words[0] == "python":
        check_runner(words[1:])
    elif words[0] == "forget-callback":
        check_command_line(words[1:])
    else:
        assert words[:2] == ["pip", "install"]


@pytest.mark.parametrize("path", LAUNCH, ids=short)
def test_accelerate_reads_its_configs(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"
    assert config.use_cpu is False
    known = {field.name for field in dataclasses.fields(config)}
    assert set(loaded(path)) <= known
    given = launch_command_parser().parse_args(["--config_file", str(path), "--num_processes", "2", "recipes/sft.py"])
    assert given.num_processes == 2


def test_the_index_lists_every_key_of_ours():
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{field.name}`" in text for field in dataclasses.fields(ForgetArguments))
