"""What a user's model card has to hold so that huggingface_hub reads it, with errors that name the place.

huggingface_hub takes every key of the metadata for an argument, and raises whatever Python says of one that is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from forget_callback.probes.quoting import quoted

_INDEX = ("model-index", "eval_results")  # which become one


def require_keys(metadata: Mapping[Any, Any]) -> None:
    """That each key is one that huggingface_hub takes, with a value that it takes; a model-index is not looked at.

    Raises:
        ValueError: Names the first that is not.
    """
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise ValueError(
                f"its metadata have the key {quoted(key)}, which is no text: YAML takes an unquoted no, yes, on, off, "
                "number or date for what it looks like; put it in quotes"
            )
        try:
            ModelCardData(ignore_metadata_errors=False, **({} if key in _INDEX else {key: value}))
        except Exception as error:
            raise ValueError(f"huggingface_hub cannot read its key {quoted(key)}, {quoted(value)}: {error}") from None


def require_results(index: Sequence[Mapping[str, Any]], *, key: str) -> None:
    """That huggingface_hub reads each result of the models in a model-index.

    Args:
        key: What the index is called.

    Raises:
        ValueError: Names the first that it does not read.
    """
    for model in index:
        for number, result in enumerate(model.get("results") or [], 1):
            try:
                model_index_to_eval_results([{"name": "", "results": [result]}])
            except Exception as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"huggingface_hub cannot read result {number} of {quoted(model.get('name'))} in its {key}, "
                    f"{quoted(result, 200)}: {why}; a result has a task and a dataset, each with a type, a list of "
                    "metrics with type and value, and as source none or a name and a url"
                ) from None
