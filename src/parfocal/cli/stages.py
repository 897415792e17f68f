"""Progress of a command that has several stages."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Stages"]


class Stages(Progress):
    """One bar for each stage, on stderr; without a terminal one line when a stage begins."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._stages: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if stage not in self._stages:
            self._stages[stage] = self.add_task(stage, total=total)
            if self.disable:
                self.console.print(f"{stage} ...", markup=False, highlight=False)
        self.update(self._stages[stage], completed=done, total=total)
