"""TRL's own script, METHOD, and its arguments; with a PROBE that is not empty as somebody writes it who edits it.

Several ranks end when TRL has saved the model, without `Trainer.end`. With gloo PyTorch may hang from there on, with or
without us: the destructor of DDP's reducer holds the GIL and joins a thread of gloo that waits for it, to free a tensor
of its last collective (pytorch/pytorch#56297).
"""

import os
import runpy
import sys

import transformers
import trl

method, probe, *words = sys.argv[1:]
name = f"{method.upper()}Trainer"


def watched(trainer):
    """The class with the callback in code."""
    from forget_callback import ForgetCallback

    class Watched(trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, callbacks=[ForgetCallback(probe, every=1)], **kwargs)

    return Watched


def end(trainer):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if probe:
    setattr(trl, name, watched(getattr(trl, name)))
if os.environ.get("WORLD_SIZE", "1") != "1":
    transformers.Trainer.end = end
sys.argv = [f"{method}.py", *words]
runpy.run_module(f"trl.scripts.{method}", run_name="__main__")
