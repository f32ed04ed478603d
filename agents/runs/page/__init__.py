"""One page of HTML about a run: a single file that needs no network."""

from agents.runs.page.document import write_page

__all__ = ["write_page"]
