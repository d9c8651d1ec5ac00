"""The callback as a plugin of ms-swift: `--external_plugins FILE --callbacks forget`.

FILE is one of your own with a line, `import forget_callback.integrations.ms_swift`, or this one. The arguments stand in
the variable `FORGET_CALLBACK`, a JSON object, which a YAML of ms-swift may set under its key `ENV`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from swift.callbacks import callbacks_map

from forget_callback.callback import ForgetCallback
from forget_callback.tools.arguments import ENVIRONMENT, CallbackArguments


def forget(args: Any, trainer: Any) -> ForgetCallback:
    """What ms-swift calls while it builds a trainer, to pass it in the Trainer's `callbacks=`.

    Args:
        args: The trainer's; not needed.
        trainer: Not yet initialized; the callback finds it when it is.

    Raises:
        ValueError: If `FORGET_CALLBACK` is no JSON object of arguments.
    """
    try:
        arguments = CallbackArguments.of_json(os.environ.get(ENVIRONMENT, "{}"))
    except ValueError as error:
        text = f"""{ENVIRONMENT}: '{{"every": 100}}'"""
        raise ValueError(f"{error}; under ENV in a YAML of ms-swift it stands as a text: {text}") from None
    return arguments.callback()


callbacks_map["forget"] = forget

# careful: ms-swift puts the folder of a plugin's file first on the path, where our axolotl.py would hide Axolotl.
if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    del sys.path[0]
