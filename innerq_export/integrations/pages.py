"""Who owns which page of a pool: counted, so that sequences may share pages, and never taken from an owner."""

from __future__ import annotations

from collections.abc import Iterable

from innerq_export.errors import OutOfMemoryError


class PoolFullError(OutOfMemoryError):
    """No page or no slot is free. Nothing was changed: what other sequences hold is theirs until they leave."""


class PageAllocator:
    """Page numbers 0 .. pages - 1 with a count of owners each; host memory only."""

    def __init__(self, pages: int):
        self._owners = [0] * pages
        self._free = list(range(pages))[::-1]

    @property
    def free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def total(self) -> int:
        """All pages."""
        return len(self._owners)

    def owners(self, page: int) -> int:
        """How many sequences own the page."""
        return self._owners[page]

    def take(self, count: int) -> list[int]:
        """Return `count` pages that now have one owner; PoolFullError, and no change, if fewer are free."""
        if count > len(self._free):
            raise PoolFullError(
                f"the page pool has no {count} free pages",
                expected=f"at most {len(self._free)} of {self.total}",
                got=count,
                fix="let a sequence leave first, or make the pool with more pages",
            )
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._owners[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Give owned pages one more owner."""
        for page in pages:
            if not self._owners[page]:
                raise AssertionError(f"page {page} has no owner to share it")
            self._owners[page] += 1

    def release(self, pages: Iterable[int]) -> list[int]:
        """Take one owner from each page; return those that are free now."""
        freed = []
        for page in pages:
            if not self._owners[page]:
                raise AssertionError(f"page {page} is free already")
            self._owners[page] -= 1
            if not self._owners[page]:
                freed.append(page)
        self._free += freed
        return freed
