"""What a reader of rows takes of another version of a type, in ROW: the types are told ahead of the rows, and each is held against the reader's own."""

from __future__ import annotations

from aster._contract.form import Form
from aster._contract.reading import Difference, Reading

__all__ = ["RowReading"]


class RowReading(Reading):
    """Types as rows are bound to them (``aster.codec.row.binding``): nothing is converted, and what is not known is never looked at."""

    def _skip(self, form: Form) -> None:
        pass

    def _read(self, writes: Form, reads: Form) -> None:
        writes, reads = self._without_none(writes, reads)
        if self._by_members(writes, reads, self._read):
            return
        writes = self._without_literal(writes, reads)
        match writes.kind, reads.kind:
            case ("list" | "tuple", "list" | "tuple") | ("set", "set") | ("dict", "dict") | ("items", "items") if len(writes.inside) == len(reads.inside):
                for inner, other in zip(writes.inside, reads.inside, strict=True):
                    self._read(inner, other)
            case _:
                self._alike(writes, reads)

    def _members(self, name: str) -> dict[str, str]:
        """Rows have the names of members, whatever their numbers are."""
        writes, reads = self._enums(name)
        known = {member for member, _ in reads.members}
        for member, _ in writes.members:
            if member not in known:
                raise Difference(f"{self._sends} may send {name}.{member}, which {self._reads} does not know")
        return {}
