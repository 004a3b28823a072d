"""Figures of the documentation that a tutorial drew: ``python benchmarks/_tutorial_figures.py`` takes them out of the stored notebooks."""

from __future__ import annotations

import base64
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {
    "perturbation": ("05_perturbation", 0),
    "scvi": ("06_scvi", 0),
    "spatial": ("07_spatial_domains", 3),
    "markers": ("13_markers_and_de", 0),
    "survival": ("14_survival_and_regression", 0),
}
"""By name in ``docs/_static``: the notebook, and which of its pictures."""


def picture(notebook: str, number: int) -> bytes:
    """Return a picture that a stored notebook shows, as PNG."""
    cells = json.loads((ROOT / "tutorials" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [
        out["data"]["image/png"]
        for cell in cells
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    return base64.b64decode("".join(shown[number]))


def main() -> None:
    """Write all of them."""
    for name, (notebook, number) in FIGURES.items():
        (ROOT / "docs" / "_static" / f"{name}.png").write_bytes(picture(notebook, number))


if __name__ == "__main__":
    main()
