"""The callback as an Axolotl plugin: what stands under `forget:` in the YAML that trains.

    plugins:
      - forget_callback.integrations.axolotl.ForgetPlugin
    forget:
      probes: [builtin:facts]
      every: 100

One nested block, as Axolotl's own `diffusion:` and `hatchery:` have: it holds what a forget.yaml holds.
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, Field, field_validator, model_validator

from forget_callback.callback import ForgetCallback
from forget_callback.probes.quoting import quoted
from forget_callback.tools.arguments import CallbackArguments

_BLOCK = "forget"


class ForgetArgs(BaseModel):
    """The key that the plugin adds to Axolotl's configuration, which is checked before a model is loaded."""

    forget: dict[str, Any] | None = Field(
        default=None, description="Arguments of ForgetCallback: probes, every, stop and the other keys of a forget.yaml"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_one_block(cls, given: Any) -> Any:
        """Axolotl drops a key that it does not know without a word, so this one says where `forget_every` belongs."""
        for key in given if isinstance(given, dict) else ():
            if isinstance(key, str) and key.startswith(f"{_BLOCK}_"):
                name = key.removeprefix(f"{_BLOCK}_")
                raise ValueError(
                    f"unknown key {quoted(key)}; the plugin's keys stand in a block, {_BLOCK}: {{{name}: ...}}"
                )
        return given

    @field_validator(_BLOCK)
    @classmethod
    def _known(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        _arguments(given)
        return given


class ForgetPlugin(BasePlugin):
    """Gives every trainer that Axolotl builds, of SFT and RL alike, what `callbacks=[ForgetCallback(...)]` gives."""

    def get_input_args(self) -> str:
        """Where Axolotl finds the keys."""
        return f"{__name__}.{ForgetArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[ForgetCallback]:
        """The callback, which goes into the Trainer's `callbacks=`.

        Not `add_callbacks_post_trainer`, which adds it once the trainer is there: a callback then learns too late
        which trainer it has to place itself before the others and the W&B run.
        """
        return [_arguments(cfg.get(_BLOCK)).callback()]


def _arguments(given: dict[str, Any] | None) -> CallbackArguments:
    return CallbackArguments.of(given or {}, source=_BLOCK)
