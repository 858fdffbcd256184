"""Steps of a run: their times, and what shows on the terminal meanwhile."""

import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["Steps"]


class Steps:
    """Names, times and shows the steps of a run on stderr.

    ``seconds`` holds how long each took, by name.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True)

    @contextmanager
    def step(self, name: str, title: str):
        """Time a step; yields ``say(text)``, which shows what it is at where stderr is a terminal."""
        begin = time.monotonic()
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(title)
            yield lambda text: bar.update(task, description=f"{title}: {text}")
        self.seconds[name] = round(time.monotonic() - begin, 2)
        self._console.print(f"{title}: {self.seconds[name]:.1f} s", markup=False, highlight=False)
