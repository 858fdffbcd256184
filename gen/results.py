"""Where a run leaves its results."""

import json
import re
from pathlib import Path

__all__ = ["file_name", "result_folder", "write_report"]


def file_name(name: str) -> str:
    """``name`` with what could mean something to a file system replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "network"


def result_folder(network, board, base: Path = Path("build")) -> Path:
    """Folder of a network's results on a board, in ``base``."""
    return base / f"{file_name(network.name)}-{board.name}"


def write_report(directory: Path, report: dict) -> None:
    """Write ``report`` as report.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
