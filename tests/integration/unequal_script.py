"""Below `run` on several ranks, of which the second cannot attach the callback; the arguments of run_script.py."""

import json
import os
import runpy
from pathlib import Path

import transformers.trainer

from forget_callback.tools.hook import sitecustomize

probe = "gone.jsonl" if os.environ["RANK"] == "1" else "mini.jsonl"
os.environ["FORGET_CALLBACK"] = json.dumps({"probes": probe, "every": 1})
sitecustomize.add_to(transformers.trainer)
runpy.run_path(str(Path(__file__).with_name("run_script.py")))
