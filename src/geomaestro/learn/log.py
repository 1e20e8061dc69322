"""What a running program shows and keeps: a progress bar, rows of metrics, TensorBoard where it is installed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from geomaestro.runs import append_row

console = Console(stderr=True)
TRANSFERS = ("check", "download", "unpack")


class Bar:
    """A progress bar with a line of numbers; silent where nobody looks on a terminal but for its last line."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, done: int, note: str = "") -> None:
        """Show `done` steps and a note."""
        self._progress.update(self._task, completed=done, note=note)


@contextmanager
def bar(title: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Bar]:
    """Show progress, elapsed time and time left; nothing if not `shown`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False, disable=not shown) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Progress of a job that finds out itself how much it has to do: gives `report(done, total, note)`."""
    with ExitStack() as stack:
        shown: list[Bar] = []

        def report(done: int, total: int, note: str = "") -> None:
            if not shown:
                shown.append(stack.enter_context(bar(title, total)))
            shown[0].update(done, note)

        yield report


@contextmanager
def transfer() -> Iterator[Callable[[str, str, int, int], None]]:
    """Show bytes checked, downloaded and unpacked: gives `report(stage, file, done, total)`."""
    columns = (TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[file]}"), console=console) as shown:
        tasks = {stage: shown.add_task(stage, total=None, visible=False, file="") for stage in TRANSFERS}

        def report(stage: str, file: str, done: int, total: int) -> None:
            shown.update(tasks[stage], completed=done, total=total, visible=True, file=file)

        yield report


class Rows(Protocol):
    """Somewhere to put rows of metrics."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        ...


class JsonRows:
    """Rows in a JSON-lines file, and in TensorBoard if the extra is installed and wanted."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._writer = _tensorboard(path.parent / "tensorboard") if tensorboard else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        append_row(self.path, row)
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, row["step"])


def _tensorboard(folder: Path) -> Any:
    from geomaestro.errors import SpecError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SpecError(
            "TensorBoard is not installed; `pip install geomaestro[tensorboard]`, or drop --tensorboard"
        ) from None
    return SummaryWriter(str(folder))
