"""Tables for people. A pipe gets the same rows as plain text."""

from rich.table import Table


def table(title: str, *columns: str) -> Table:
    """A column whose name starts with # holds numbers."""
    rows = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column.startswith("#")
        rows.add_column(column.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
    return rows


def shown_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def shown_rate(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
