"""What a program on standard error says is ours, in a process of its own: pytest configures logging in this one."""

import subprocess
import sys

import pytest

WARN = "logging.getLogger('forget_callback.training.monitor').warning('60 items are %s', 'few')"


def said(*lines):
    """What a program with these lines writes to standard error."""
    program = "\n".join(["import logging, sys", *lines])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr


def test_warnings_carry_the_name_of_the_package_where_no_one_configured_logging():
    assert said("import forget_callback", WARN) == "forget_callback: 60 items are few\n"


@pytest.mark.parametrize(
    "configure, expected",
    [
        ("logging.basicConfig()", "WARNING:forget_callback.training.monitor:60 items are few\n"),
        ("logging.basicConfig(format='%(message)s')", "60 items are few\n"),
        ("logging.basicConfig(handlers=[logging.NullHandler()])", ""),
        (
            "logging.getLogger('forget_callback').addHandler(logging.StreamHandler())",
            "60 items are few\n",
        ),
        ("logging.getLogger('forget_callback').propagate = False", "forget_callback: 60 items are few\n"),
        ("logging.getLogger('forget_callback').setLevel(logging.ERROR)", ""),
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_program_that_configured_logging_gets_each_message_once_and_its_own_way(configure, expected, before):
    lines = ["import forget_callback", configure] if not before else [configure, "import forget_callback"]
    assert said(*lines, WARN) == expected


def test_a_warning_stands_above_a_progress_bar_and_not_in_it():
    bar = ["from tqdm import tqdm", "bar = tqdm(total=3, ascii=True, ncols=40)", "bar.update(1)"]
    lines = said("import forget_callback", *bar, WARN, "bar.close()").replace("\r", "\n").splitlines()
    assert "forget_callback: 60 items are few" in [line.strip() for line in lines]
