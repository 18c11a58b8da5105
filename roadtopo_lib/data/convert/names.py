"""Other people's class names → ids of a class table."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from roadtopo_lib.files import check_file, plain_name
from roadtopo_lib.labels import CLASSES, ClassTable
from roadtopo_lib.plain_yaml import MAX_TEXT, parse_yaml

SYNONYMS = {
    "lane": "lane_marking", "lane line": "lane_marking", "lane mark": "lane_marking", "line": "lane_marking",
    "road edge": "lane_boundary", "curb": "lane_boundary", "kerb": "lane_boundary", "road curb": "lane_boundary",
    "crossing": "crosswalk", "zebra": "crosswalk", "pedestrian crossing": "crosswalk",
    "zebra crossing": "crosswalk",
    "pavement": "sidewalk", "undrivable": "background",
}  # fmt: skip
"""Names that label files use for the classes of the default table."""

LEFT_OUT = ("", "~", "null", "none", "no", "off", "false")
"""What stands in YAML for no class."""


def read_classes(path: str | Path) -> dict:
    """Reads what ``--classes`` names: a YAML list is a class table, a mapping gives their names ours.

    In a mapping a name is text, ``no`` and ``010`` included; ``none``, ``off`` and the like leave a name out.

    Returns:
        Arguments ``classes`` or ``names`` of a converter.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither a list nor a mapping of names, or a table with a wrong row; names the file.
    """
    path = Path(path)
    check_file(path, expected="a class table or a mapping of names in YAML", most=MAX_TEXT)
    try:
        text = path.read_text(encoding="utf-8")
        values = parse_yaml(text)
        if isinstance(values, list):
            return {"classes": ClassTable.from_list(values)}
        values = parse_yaml(text, as_text=True)
        if isinstance(values, dict) and all(isinstance(ours, str) for ours in values.values()):
            names = {theirs: None if ours.casefold() in LEFT_OUT else ours for theirs, ours in values.items()}
            ClassNames(CLASSES, names)
            return {"names": names}
        raise ValueError(f"expected a list of classes or a mapping of names, found {type(values).__name__}")
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


class ClassNames:
    """Finds the class of a name; upper and lower case, blanks, hyphens and underscores are alike.

    Args:
        classes: the class table.
        names: their name → name in the table; ``None`` for names to leave out without counting them. Comes before
            ``SYNONYMS``.

    Raises:
        ValueError: a name that the table does not have.
    """

    def __init__(self, classes: ClassTable, names: Mapping[str, str | None] | None = None) -> None:
        self.classes = classes
        ids = {_plain(c.name): c.id for c in classes}
        names = {_plain(theirs): ours for theirs, ours in (names or {}).items()}
        unknown = sorted(str(ours) for ours in names.values() if ours is not None and _plain(ours) not in ids)
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no class of that name, expected one of {', '.join(classes.names)}")
        self.ids: dict[str, int | None] = {
            theirs: ids[_plain(ours)] for theirs, ours in SYNONYMS.items() if _plain(ours) in ids
        }
        self.ids |= ids | {theirs: ours and ids[_plain(ours)] for theirs, ours in names.items()}

    @property
    def lane_class(self) -> int:
        """The class of lanes of no name: the first that bears lanes; ValueError without any."""
        if not self.classes.lane_ids:
            raise ValueError("the class table has no class whose instances are lanes")
        return self.classes.lane_ids[0]

    def __contains__(self, name: str) -> bool:
        return _plain(name) in self.ids

    def get(self, name: str, default: int | None = None) -> int | None:
        """The class id, ``None`` for a name to leave out, ``default`` for an unknown one."""
        return self.ids.get(_plain(name), default)


def _plain(name: str) -> str:
    return " ".join(plain_name(str(name)).casefold().replace("_", " ").replace("-", " ").split())
