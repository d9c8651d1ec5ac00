"""Two checkpoints, compared in Python: what the command line's `compare` does, and which items changed.

python examples/compare_checkpoints.py RUN
"""

import argparse

from forget_callback import compare, open_run

parser = argparse.ArgumentParser()
parser.add_argument("run")
given = parser.parse_args()

run = open_run(given.run)
for probe in run.store.probes():
    before, after = run.read(probe.name, default="first"), run.read(probe.name, default="last")
    changed = compare(before, after)
    low, high = changed.knowledge_lost_interval
    print(f"{probe.name}: {changed.accuracy_before:.1%} of {changed.n} items right, then {changed.accuracy_after:.1%}")
    print(f"  1→0 {changed.n10}, 0→1 {changed.n01}, McNemar p = {changed.p_value:.2g}")
    least, most = changed.knowledge_lost_range_low, changed.knowledge_lost_range_high
    print(f"  {changed.verdict}: knowledge lost {changed.knowledge_lost:.1%} [{low:.1%}, {high:.1%}]")
    print(f"  at least {least:.1%}, at most {most:.1%}, whatever guesses do")
    print(f"  in {changed.variants} variants of the prompt, method {changed.knowledge_method!r}")
    lost = (before.correct == 1) & (after.correct == 0)
    for name, was, now in list(zip(before.ids[lost], before.prediction[lost], after.prediction[lost]))[:3]:
        print(f"  {name}: {was!r} became {now!r}")
