"""Makes a package index (PEP 503) of what `python -m build` put into a folder, and prints the index's address for pip.

python .ci/index.py dist build/index
"""

import hashlib
import shutil
import sys
from pathlib import Path

built, index = map(Path, sys.argv[1:])
(wheel,) = built.glob("*.whl")
folder = index.resolve() / wheel.name.partition("-")[0].replace("_", "-")
folder.mkdir(parents=True, exist_ok=True)
shutil.copy(wheel, folder)
digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
(folder / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}#sha256={digest}">{wheel.name}</a>\n')
print(folder.parent.as_uri())
