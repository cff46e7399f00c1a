"""Files that appear in a folder together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType


class Staging:
    """A hidden folder beside the finished files, on the same file system; gone when the context ends.

    `path(name)` is where to write; `commit` renames everything into `folder`. Left without a commit, nothing remains.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Staging:
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._staged = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._staged, ignore_errors=True)
        if self._made and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def path(self, name: str) -> Path:
        """Return where the file `name` is to be written."""
        return self._staged / name

    def commit(self, last: str) -> None:
        """Rename all staged files into the folder, `last` after the others; an older `last` is removed first."""
        (self.folder / last).unlink(missing_ok=True)
        for path in sorted(self._staged.iterdir(), key=lambda path: (path.name == last, path.name)):
            os.replace(path, self.folder / path.name)
