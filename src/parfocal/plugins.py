"""What other packages may add to parfocal: tile encoders, feature formats, objectives, heads and zoom policies.

Each kind is a frozen dataclass of a name, facts and functions, and each has one `Registry`. Ours are found by looking
through the files of one folder for such an object, so that one more is one more file. Another package's are found by
the entry points in its pyproject.toml:

    [project.entry-points."parfocal.heads"]
    median = "parfocal_median:HEAD"

They are imported when they are first asked for, and an error in one of them names its package.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from parfocal.errors import ParfocalError, PluginError, as_problem


@dataclass(frozen=True)
class Origin:
    """Where a plug-in comes from.

    Attributes:
        what: its kind and name, such as `head 'median'`.
        package: the distribution that adds it.
        version: of the distribution.
    """

    what: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"the {self.what} of the package {self.package} {self.version}"

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Let what goes wrong inside name the package.

        Raises:
            PluginError: something of no kind of parfocal's was raised; errors of parfocal's kinds get a note.
        """
        try:
            yield
        except ParfocalError as error:
            if str(self) not in f"{error} {getattr(error, '__notes__', '')}":
                error.add_note(f"in {self}")
            raise
        except Exception as error:  # what others wrote may fail in any way
            raise PluginError(f"{self} failed ({as_problem(error)}).") from error

    def guarded(
        self, function: Callable[..., Any], wrap: Callable[["Origin", Any], Any] | None = None
    ) -> Callable[..., Any]:
        """The function, whose failures name the package; it can be sent to another process.

        Args:
            function: of the package.
            wrap: what becomes of its results; they are given as they are where None.
        """
        return _Guarded(self, function, wrap)


@dataclass(frozen=True)
class _Guarded:
    origin: Origin
    function: Callable[..., Any]
    wrap: Callable[[Origin, Any], Any] | None

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self.origin.blamed():
            result = self.function(*args, **options)
            return result if self.wrap is None else self.wrap(self.origin, result)


@dataclass(frozen=True)
class Plugin:
    """The base of everything that can be added.

    Attributes:
        name: what it is asked for by.
    """

    name: str

    def guarded(self, origin: Origin) -> "Plugin":
        """The same as it comes from another package: failures of its functions name that package."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        functions = {name: origin.guarded(value) for name, value in values.items() if callable(value)}
        return type(self)(**{**values, **functions})


Kind = TypeVar("Kind", bound=Plugin)


class Registry(Generic[Kind]):
    """All of one kind, by name: ours and those of installed packages."""

    def __init__(self, kind: type[Kind], what: str, folder: str) -> None:
        """Nothing is looked for yet.

        Args:
            kind: the dataclass.
            what: one of them in words, such as `head`; in plural, and after `parfocal.`, the group of entry points.
            folder: the package whose files hold ours; they are all imported at the first question.
        """
        self._kind, self._what, self._folder = kind, what, folder
        plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
        self.group = f"parfocal.{plural.replace(' ', '_')}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of ours, then those of other packages; the latter are not imported for it."""
        return (*self.ours, *(name for name in self._added if name not in self.ours))

    def get(self, name: str) -> Kind:
        """The one of a name.

        Raises:
            KeyError: there is none.
            PluginError: its package cannot be used.
        """
        if name in self._added:
            return self._load(name)
        return self.ours[name]

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._added

    def __iter__(self) -> Iterator[Kind]:
        return (self.get(name) for name in self.names)

    def added(self) -> tuple[str, ...]:
        """The names that other packages add."""
        return tuple(self._added)

    def origin(self, name: str) -> Origin | None:
        """Where one comes from; None for ours."""
        entries = self._added.get(name)
        return None if entries is None else _origin(self._what, entries[0])

    @cached_property
    def ours(self) -> dict[str, Kind]:
        """Ours by name, in the order of their files."""
        folder = importlib.import_module(self._folder)
        found: dict[str, Kind] = {}
        for file in pkgutil.walk_packages(folder.__path__, f"{self._folder}."):
            for value in vars(importlib.import_module(file.name)).values():
                if isinstance(value, self._kind):
                    found[value.name] = value
        return found

    @cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            entries = found.setdefault(entry.name, [])
            # A folder that stands twice on the path shows its packages twice.
            if _origin(self._what, entry) not in [_origin(self._what, other) for other in entries]:
                entries.append(entry)
        return found

    def _load(self, name: str) -> Kind:
        origin, *others = (_origin(self._what, entry) for entry in self._added[name])
        if others or name in self.ours:
            other = f"the package {others[0].package} {others[0].version}" if others else "parfocal itself"
            raise PluginError(f"cannot use {origin}: {other} adds one of that name too. Remove one of the two.")
        try:
            plugin = self._added[name][0].load()
        except Exception as error:  # what others wrote may fail in any way
            raise PluginError(f"cannot use {origin}: it cannot be imported ({as_problem(error)}).") from error
        if not isinstance(plugin, self._kind) or plugin.name != name:
            named = f"one called {plugin.name!r}" if isinstance(plugin, self._kind) else f"a {type(plugin).__name__}"
            raise PluginError(
                f"cannot use {origin}: its entry point leads to {named}, and a {self._kind.__name__} called {name!r} "
                "is expected."
            )
        guarded = plugin.guarded(origin)
        assert isinstance(guarded, self._kind)
        return guarded


def _origin(what: str, entry: EntryPoint) -> Origin:
    package = entry.dist.name if entry.dist is not None else entry.value.split(":")[0]
    return Origin(f"{what} {entry.name!r}", package, entry.dist.version if entry.dist is not None else "")
