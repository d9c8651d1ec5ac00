"""Runs at the start of every Python process below `forget-callback run`: waits for `transformers.trainer`, no more.

The interpreter finds it because its directory stands first on PYTHONPATH, which children inherit. It costs next to
nothing where nobody trains: it imports only what every interpreter has loaded already, and reads no argument. When it
has run, this directory is off `sys.path`, and the `sitecustomize` that would have run without it has run as ever.
"""

import os
import sys

TYPE_CHECKING = False  # the real one is in typing, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

TRAINER = "transformers.trainer"
PLACEHOLDER = "ForgetCallbackPlaceholder"
FOLLOWED = "followed_by_forget_callback"


class TrainerFinder:
    """A finder that finds nothing itself: it has the Trainer's module changed when it has been loaded."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """The spec that the finders after this one have for the Trainer's module; None for every other module."""
        if name != TRAINER:
            return None
        others = (finder for finder in list(sys.meta_path) if not isinstance(finder, TrainerFinder))
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((one for one in specs if one is not None), None)
        if spec is not None and spec.loader is not None:
            _afterwards(spec.loader)
        return spec


def _afterwards(loader: "Any") -> None:
    """Has this loader, which is made anew for each import, also change the module; spec and loader stay its own."""
    execute = loader.exec_module

    def exec_module(module: "Any") -> None:
        loader.__dict__.pop("exec_module", None)
        execute(module)
        if module.__name__ == TRAINER:
            add_to(module)

    loader.exec_module = exec_module


def add_to(module: "Any") -> None:
    """Puts a callback among those that every Trainer begins with, once; it leaves when the Trainer is built."""

    def on_init_end(self: "Any", args: "Any", state: "Any", control: "Any", **kwargs: "Any") -> None:
        try:
            from forget_callback.tools.attach import attach
        except Exception as error:  # another Python than ours, or another version of something
            _cannot(f"{type(error).__name__}: {error}; install forget-callback for {sys.executable}")
        else:
            attach(self, args, state, control, **kwargs)

    try:
        if not _is_placed(module):
            kind = type(PLACEHOLDER, (module.TrainerCallback,), {"on_init_end": on_init_end})
            module.DEFAULT_CALLBACKS.append(kind)
            _keep(module, kind)
            _follow(module)
    except Exception as error:
        _cannot(f"transformers has no such Trainer as expected: {type(error).__name__}: {error}")


def _is_placed(module: "Any") -> bool:
    return any(getattr(kind, "__name__", "") == PLACEHOLDER for kind in module.DEFAULT_CALLBACKS)


def _keep(module: "Any", kind: "Any") -> None:
    """Puts the callback back where a Trainer is built: some replace the list by one of their own, as ms-swift does."""
    from functools import wraps  # loaded, with transformers

    build = module.Trainer.__init__

    @wraps(build)
    def __init__(self: "Any", *args: "Any", **kwargs: "Any") -> None:
        if not _is_placed(module):
            module.DEFAULT_CALLBACKS = [*module.DEFAULT_CALLBACKS, kind]
        build(self, *args, **kwargs)

    module.Trainer.__init__ = __init__


def _follow(module: "Any") -> None:
    """Has each training say whether it is watched: what a script makes of its callbacks may undo what was attached."""
    from functools import wraps

    handler = getattr(module, "CallbackHandler", None)
    if handler is None or hasattr(handler.on_train_begin, FOLLOWED):
        return
    begin, end = handler.on_train_begin, handler.on_train_end

    @wraps(begin)
    def on_train_begin(self: "Any", args: "Any", state: "Any", *more: "Any", **kwargs: "Any") -> "Any":
        control = begin(self, args, state, *more, **kwargs)
        _told("began", self, state)
        return control

    @wraps(end)
    def on_train_end(self: "Any", args: "Any", state: "Any", *more: "Any", **kwargs: "Any") -> "Any":
        _told("ends", self, state)
        return end(self, args, state, *more, **kwargs)

    setattr(on_train_begin, FOLLOWED, True)
    handler.on_train_begin, handler.on_train_end = on_train_begin, on_train_end


def _told(event: "Any", *what: "Any") -> None:
    try:
        from forget_callback.tools import attach

        getattr(attach, event)(*what)
    except (
        Exception
    ):  # that it cannot be imported was said where a Trainer was built, and nothing is reported as watched
        pass


def _cannot(why: str) -> None:
    """Says that nothing will be attached; what can say it better could not be imported."""
    if os.environ.get("RANK", "0") == "0":
        print(f"forget-callback run: NOT ATTACHED, no forgetting will be measured: {why}", file=sys.stderr, flush=True)
    _leave(f"failed-{os.getpid()}", why)
    if os.environ.get("FORGET_CALLBACK_REQUIRE"):
        raise SystemExit(2)


def _leave(name: str, text: str = "") -> None:
    """Leaves a file for `forget-callback run`, which may be on another machine."""
    try:
        with open(os.path.join(os.environ["FORGET_CALLBACK_REPORTS"], name), "x", encoding="utf-8") as file:
            file.write(text)
    except (KeyError, OSError, ValueError):
        pass


def _start() -> None:
    if "FORGET_CALLBACK" not in os.environ:
        return
    if not any(type(finder).__name__ == TrainerFinder.__name__ for finder in sys.meta_path):  # of another installation
        sys.meta_path.insert(0, TrainerFinder())
        if TRAINER in sys.modules:
            add_to(sys.modules[TRAINER])
    _leave("python")


def _continue() -> None:
    """Imports the sitecustomize behind this one; what it raises, and that there is none, is site's to handle."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    del sys.modules[__name__]
    __import__("sitecustomize")


if __name__ == "sitecustomize":
    _start()
    _continue()
