"""Exit status 0 where this Python has the package installed from the clone that this file is in, as README installs it.

pip writes down where a package came from. What is merely importable, in the current directory, has no such record.
"""

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

try:
    record = metadata.distribution("forget-callback").read_text("direct_url.json") or "{}"
    source = url2pathname(urlsplit(json.loads(record).get("url", "")).path)
    sys.exit(not (source and os.path.samefile(source, Path(__file__).parents[1])))
except (metadata.PackageNotFoundError, OSError, ValueError):
    sys.exit(1)
