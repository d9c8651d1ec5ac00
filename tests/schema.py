"""What `--format json` prints, checked against docs/schema.json."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "schema.json").read_text(encoding="utf-8"))


def checked(text, command):
    """The one object in a command's standard output, which is valid."""

    def refused(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(text, parse_constant=refused)
    validator = Draft202012Validator({"$ref": f"#/$defs/{command}", "$defs": SCHEMA["$defs"]})
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]
    assert not problems, problems
    assert found["command"] == command and Draft202012Validator(SCHEMA).is_valid(found)
    return found
