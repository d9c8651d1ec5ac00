"""Judges a text that never ends, in a process that other processes were forked from, until it is ended from outside."""

import os
import signal
import sys
import time
from pathlib import Path

from forget_callback import Generation
from forget_callback.probes import apart, judge_process
from forget_callback.probes.judging import judge

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is deaf to it
    pattern = Generation("q", "Q", "(a|a)+b", "regex")
    assert judge(pattern, "aab", finished=True).outcome == "correct"
    if os.fork() == 0:  # as a data loader's worker, which lives on
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert judge_process._current is None
        assert judge(pattern, "aab", finished=True).outcome == "correct"
        Path(sys.argv[1]).with_suffix(".forked").write_text(str(os.getpid()))
        time.sleep(600)
    while not Path(sys.argv[1]).with_suffix(".forked").exists():
        time.sleep(0.05)
    assert judge(pattern, "aab", finished=True).outcome == "correct"
    apart.SECONDS = 2.0
    assert judge_process._current is not None
    Path(sys.argv[1]).write_text(str(judge_process._current._process.pid))
    judge(pattern, "a" * 60, finished=True)
