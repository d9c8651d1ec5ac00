"""How models word an answer: what must be read, and what holds none.

`phrasings.json` has under "choice" phrasings with X for any letter and Z for another one, under "choice but I" those
where I would be the pronoun; under "word or letter", "texts" and "number" a text and what must be read in it; under
"exact" an answer, texts that give it, and texts that give another; under "within" an answer, texts that begin with it,
texts that hold it later, and texts without it.
"""

import json
from pathlib import Path
from typing import Any

PHRASINGS: dict[str, list[Any]] = json.loads(Path(__file__).with_name("phrasings.json").read_text("utf-8"))
