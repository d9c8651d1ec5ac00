"""Processes that are forked from one that has imported everything: they begin within a second, not within twelve."""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

import psutil
import torch
from torch.distributed.run import main as torchrun

PROGRAM = Path(__file__).resolve().parents[1] / "forget_callback" / "__main__.py"  # as torchrun takes it
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["forget_callback.demo.run", "forget_callback.cli", __name__])


def start(*words, environment=None, directory=None, out=None, err=None, before=None, processes=1):
    """A process that does what `python WORDS...` does, begun: a script's path or `-m MODULE`, and its arguments.

    Args:
        environment: All of it; by default that of this process.
        directory: To work in.
        out, err: Files or terminals for standard output and standard error.
        before: Is called first, there.
        processes: If several, a script's path stands in WORDS and it does what
            `torchrun --standalone --nproc-per-node PROCESSES WORDS...` does.
    """
    given = dict(os.environ if environment is None else environment)
    arguments = ([*map(str, words)], given, directory, out, err, before, processes)
    process = CONTEXT.Process(target=_begin, args=arguments, daemon=processes == 1)  # a daemon may have no children
    process.start()
    return process


def finish(process, seconds=120):
    """The exit status of a process that ends by itself.

    Raises:
        AssertionError: If it takes longer than that, which is a process that hangs; it is killed.
    """
    process.join(seconds)
    if process.exitcode is None:
        kill_all(process.pid)
        process.join()
        raise AssertionError(f"still there after {seconds} seconds")
    return process.exitcode


def kill_all(number):
    """Kills a process and all below it, also in sessions of their own, as torchrun's are.

    SIGABRT comes first: with PYTHONFAULTHANDLER=1 each of them then writes where it stands.
    """
    found = psutil.Process(number)
    found = [*found.children(recursive=True)[::-1], found]
    for kill in (signal.SIGABRT, signal.SIGKILL):
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(kill)
        found = psutil.wait_procs(found, timeout=5)[1]


def _begin(words, environment, directory, out, err, before, processes):
    os.environ.clear()
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
    if processes == 1:
        _python(words)
    else:
        _torchrun(words, processes)


def _python(words):
    module = words[0] == "-m"
    sys.argv = words[module:]
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _torchrun(words, processes):
    """By torchrun's own switches, which fork here what it would start anew."""
    switches = ["--standalone", "--nproc-per-node", f"{processes}", "--start-method", "fork", "--run-path"]
    torchrun([*switches, *words])
