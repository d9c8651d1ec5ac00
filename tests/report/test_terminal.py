"""What the line of a snapshot says, and what it leaves out because it may be noise."""

from forget_callback.report.terminal import snapshot_line
from forget_callback.runs.history import History
from forget_callback.snapshots.snapshot import Snapshot


def rows(step, lost):
    """The rows of a snapshot at which `lost` has, by category, how many are wrong of how many; of 4 options.

    At the start all are right but the last of each category, so that a guess may explain a loss.
    """
    history, categories = History(), [name for name, (_, n) in lost.items() for _ in range(n)]
    start = [float(i < n - 1) for _, n in lost.values() for i in range(n)]
    now = [float(wrong <= i < n - 1) for wrong, n in lost.values() for i in range(n)]
    for at, correct in ((0, start), (step, now))[: 2 if step else 1]:
        ids, options = list(range(len(now))), [4] * len(now)
        history.append([Snapshot("p", "f", at, ids, correct, category=categories, n_choices=options)])
    return [row for row in history.rows if row.step == step]


def test_a_category_is_named_only_if_its_loss_is_certain():
    certain = snapshot_line(rows(5, {"few": (1, 2), "many": (15, 50)}), 1.0, first=False)
    assert certain.startswith("forgetting at step 5") and ", most in many 39.1%" in certain
    assert "most in" not in snapshot_line(rows(5, {"few": (1, 2), "many": (0, 50)}), 1.0, first=False)


def test_the_first_line_is_the_baseline_and_how_much_is_right():
    start = {"a": (0, 3), "b": (0, 2)}
    assert snapshot_line(rows(0, start), 1.25, first=True) == "baseline: p 60.0% of 5 items right | 1.2 s"
    elsewhere = snapshot_line(rows(5, {"a": (1, 3), "b": (0, 2)}), 1.0, first=True)  # the baseline is another run's
    assert elsewhere.startswith("start at step 5") and "p 40.0% of 5 items right" in elsewhere
