"""Processes that are forked from one that has imported everything: they begin within a second, not within twelve."""

import atexit
import multiprocessing
import os
import runpy
import sys
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["forget_callback.demo", "forget_callback.cli", __name__])


def python(words, environment, directory=None, out=None, err=None, before=None):
    """What `python WORDS...` does, in this process: a script's path or `-m MODULE`, and its arguments.

    Args:
        environment: Added to that of this process.
        directory: To work in.
        out, err: Files or terminals that take the place of standard output and standard error.
        before: Is called first.
    """
    os.environ.update(environment)
    if directory is not None:
        os.chdir(directory)
    for number, file in ((1, out), (2, err)):
        if file is not None:
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if before is not None:
        before()
    module = words[0] == "-m"
    sys.argv = words[module:]
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def alone(words, environment, more):
    """`python` in no other environment than the one given."""
    os.environ.clear()
    python(words, environment, **more)


def start(*words, environment=None, **more):
    """A process of `python WORDS...`, begun; `more` is what `python` takes."""
    given = dict(os.environ if environment is None else environment)
    process = CONTEXT.Process(target=alone, args=([*map(str, words)], given, more), daemon=True)
    process.start()
    return process


def finish(process, seconds=120):
    """The exit status of a process, which is killed if it takes longer than that."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def torchrun(*words, logs, environment=None):
    """What `torchrun --standalone --nproc_per_node 2 WORDS...` does, by torchrun's own launcher.

    Args:
        logs: Directory for what the processes write, each to a `stdout.log` and a `stderr.log` of its own below it.

    Raises:
        ChildFailedError: One of them failed.
    """
    given = dict(os.environ if environment is None else environment)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=f"{uuid.uuid4()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    launch = elastic_launch(config, python)
    with ThreadPoolExecutor(1) as thread:  # in the main thread it would take over the signals
        thread.submit(launch, [*map(str, words)], given).result()
