"""Writing of a run's checkpoints in the background."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any, BinaryIO, Self

from torch import Tensor
from torch.utils import _pytree as pytree

from gendd.core import files


class Checkpoints:
    """Writer of last.pt: one file at a time, atomically, while the training continues.

    The end of a `with` block waits for the last file.

    Args:
        path: last.pt.
        kept: number of checkpoints to keep. The earlier ones are step-<step>.pt beside it.
    """

    def __init__(self, path: Path, kept: int = 1):
        self.path, self.kept = path, kept
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.wait()

    def write(self, content: dict[str, Any], step: int) -> None:
        """Copy the content, which the training changes, and start to write it.

        Raises:
            UserError, PassingFault: an earlier checkpoint could not be written.
        """
        self.wait()
        copied = pytree.tree_map(_copied, content)
        self.thread = threading.Thread(target=self._write, args=(copied, step))
        self.thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            UserError, PassingFault: it could not be written.
        """
        if self.thread:
            self.thread.join()
            self.thread = None
        if self.error:
            error, self.error = self.error, None
            raise error

    def _write(self, content: dict[str, Any], step: int) -> None:
        try:
            files.save(self.path, content)
            if self.kept > 1:
                self._keep(step)
        except BaseException as error:
            self.error = error

    def _keep(self, step: int) -> None:
        """Give last.pt a second name, and delete the oldest files beyond `kept`."""
        named = self.path.with_name(f"step-{step:09d}.pt")
        named.unlink(missing_ok=True)
        try:
            os.link(self.path, named)
        except OSError:  # Some file systems, such as those on object stores, do not have hard links.
            files.write_whole(named, self._copy_last)
        for old in sorted(self.path.parent.glob("step-*.pt"))[: -self.kept]:
            old.unlink(missing_ok=True)

    def _copy_last(self, file: BinaryIO) -> None:
        with open(self.path, "rb") as last:
            shutil.copyfileobj(last, file)


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
