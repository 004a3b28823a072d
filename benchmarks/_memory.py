"""What memory this process has, and had at most."""

from __future__ import annotations

from pathlib import Path


def status() -> dict[str, int]:
    """Return sizes of this process by Linux's names (VmRSS, VmHWM, RssAnon, …), in bytes."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: 1024 * int(value.split()[0]) for name, value in lines if value.endswith("kB")}


def resident() -> tuple[int, int]:
    """Return the resident size now and at most, in bytes."""
    sizes = status()
    return sizes["VmRSS"], sizes["VmHWM"]
