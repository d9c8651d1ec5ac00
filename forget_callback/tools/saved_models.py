"""Which saved model of a run is the one that a step was measured of, and which was there before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forget_callback.probes.quoting import quoted
from forget_callback.runs.recorded import Recorded
from forget_callback.tools.checkpoints import Checkpoint

_FILES = ("config.json", "adapter_config.json")


def model_of(run: Recorded, steps: Sequence[int], step: int | None = None) -> Checkpoint:
    """The saved model of a run at a step that was measured; of an adapter, its directory.

    A model without a step of its own that is the run's directory, or is called "model" in it, was saved at the end.

    Args:
        run: Its record.
        steps: At which all of its probes were measured, in order; one at least.
        step: Of these; by default the last one of which a model was saved.

    Raises:
        ValueError: If none was saved.
    """
    home = run.path.parent
    places = (*sorted(home.glob("checkpoint-*")), home / "model", home)
    found = [Checkpoint.of(str(path)) for path in places if _is_model(path)]
    last = run.run.steps if run.run.steps is not None else steps[-1]
    scored = {known: _scored(run, known) for known in steps}  # of a history of checkpoints
    by_step = {known: one for known, one in scored.items() if one is not None} | {
        last if one.step is None else one.step: one for one in sorted(found, key=lambda one: one.step is not None)
    }
    wanted = [known for known in steps if known in by_step] if step is None else [step]
    if wanted and wanted[-1] in by_step:
        one = by_step[wanted[-1]]
        return Checkpoint(one.model, wanted[-1], one.samples_seen, one.tokens_seen, one.dtype)
    at = "" if step is None else f" at step {step}"
    saved = f"; saved are those of steps {sorted(by_step)}, measured {list(steps)}" if by_step else ""
    raise ValueError(
        f"no saved model of {quoted(str(home), 200)}{at}: expected a checkpoint, or a model in it{saved}; name one "
        "with --model, or train with save_strategy and save_model()"
    )


def _scored(run: Recorded, step: int) -> Checkpoint | None:
    """The model that a snapshot says it is of, where that is still there."""
    for name in run.manifest()["probes"]:
        model = run.read(name, step).metadata.get("model") if step in run.steps(name) else None
        if isinstance(model, str) and _is_model(Path(model)):
            return Checkpoint(model, step)
    return None


def baseline_model(run: Recorded) -> str | None:
    """The model before training as the run names it, None where it does not, or was compared with another stage."""
    return run.training.model if run.stage.number <= 1 else None


def _is_model(path: Path) -> bool:
    return any((path / name).is_file() for name in _FILES)
