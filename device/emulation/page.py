"""The part of a page of the documentation that is written by a program."""

from pathlib import Path

END = "<!-- end of tables -->"


class Tables:
    """What lies between two marks of a page. writer: the command that writes it, which the first mark names."""

    def __init__(self, page: Path, writer: str) -> None:
        self.page = page
        self._start = f"<!-- tables: written by {writer} -->\n"

    def write(self, tables: str) -> None:
        text = self.page.read_text(encoding="utf-8")
        start, end = text.index(self._start) + len(self._start), text.index(END)
        self.page.write_text(text[:start] + tables + text[end:], encoding="utf-8")

    def read(self) -> str:
        text = self.page.read_text(encoding="utf-8")
        return text[text.index(self._start) + len(self._start) : text.index(END)]
