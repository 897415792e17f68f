"""The help of a command at once: from the page that is made of it, so that no library is imported to show it."""

import re
from pathlib import Path
from shutil import get_terminal_size

# In an installed package, and in a checkout.
_PAGES = (Path(__file__).with_name("cli.md"), Path(__file__).parents[3] / "docs" / "cli.md")


def stored_help(name: str) -> str | None:
    """The help text of a command as `docs/cli.md` has it; None where the page is not there.

    A test keeps the page equal to what the parser itself would show, which takes seconds to import.
    """
    page = next((page for page in _PAGES if page.is_file()), None)
    if page is None:
        return None
    found = re.search(rf"^## parfocal {re.escape(name)}\n.*?^```text\n(.*?)^```$", page.read_text(), re.M | re.S)
    if found is None:
        return None
    width = get_terminal_size((100, 24)).columns
    return re.sub(r"-{40,}", lambda rule: rule[0][: max(1, width - 2)], found[1].rstrip())
