"""Class tables: the only place where a class id is written as a number.

A table gives each class its id, name and colour, and says which classes are separated into instances. Other modules ask
a table for roles (``lane_ids``, ``crosswalk_ids``) and never for a number. ``CLASSES`` is the default: the six classes
of the Road Topology guide, in colours that readers with protanopia or deuteranopia can tell apart; classes that bear
instances have a luminance contrast of at least 3 : 1 to road and background. A user's own table comes from the setting
``classes`` of a config.

Two roles are separated into instances:

* ``"lane"``: painted lane lines (``LANE_MARKING``) and the line where the road ends, an edge line or a kerb
  (``LANE_BOUNDARY``). Lane benchmarks (TuSimple, CULane, BDD100K) label both as lanes, and a driver needs both.
* ``"crosswalk"``: each zebra crossing is one instance.

In an instance mask the ids run 1..N over the whole image, lanes first (left to right), then crosswalks.

Reference:
    G. Machado, M. Oliveira, L. Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
    IEEE TVCG 2009; WCAG 2.1, contrast of graphics (1.4.11).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

IGNORE_INDEX = 255
"""Semantic id of an unlabelled pixel: it takes part in no loss and no score."""

NO_INSTANCE = 0
"""Instance id of a pixel that belongs to no instance."""

ROLES = ("lane", "crosswalk")


@dataclass(frozen=True)
class LabelClass:
    """One row of a class table. ``ClassTable`` checks the values.

    Args:
        id: value in the semantic mask, the row's place in the table.
        name: the name used in tables, metrics and files.
        color: RGB, each 0..255.
        instances: ``"lane"`` or ``"crosswalk"`` if the class is separated into instances, else ``None``.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    instances: str | None = None


@dataclass(frozen=True)
class ClassTable(Sequence):
    """A sequence of classes: ``table[2]``, ``len(table)`` and ``for c in table`` work as on a tuple.

    Args:
        rows: C classes with ids 0..C-1 in order, C between 2 and 255. Id 0 is the background.

    Raises:
        ValueError: wrong number of classes, ids out of order, a name that is empty or taken, a colour that is not
            three whole numbers 0..255, an unknown role.
    """

    rows: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        if not 2 <= len(self.rows) <= IGNORE_INDEX:
            raise ValueError(f"a class table has {len(self.rows)} classes, expected 2 to {IGNORE_INDEX}")
        taken = set()
        for place, c in enumerate(self.rows):
            _require(_is_whole(c.id) and c.id == place, c, "id", f"{place}, its place in the table")
            _require(isinstance(c.name, str) and c.name.strip() != "", c, "name", "some text")
            _require(c.name not in taken, c, "name", "a name that no earlier class has")
            is_rgb = isinstance(c.color, tuple) and len(c.color) == 3
            is_rgb = is_rgb and all(_is_whole(value) and 0 <= value <= 255 for value in c.color)
            _require(is_rgb, c, "color", "three whole numbers from 0 to 255")
            _require(c.instances is None or c.instances in ROLES, c, "instances", f"none or one of {ROLES}")
            _require(place > 0 or c.instances is None, c, "instances", "none: id 0 is the background")
            taken.add(c.name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> LabelClass | tuple[LabelClass, ...]:
        return self.rows[index]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.rows)

    @property
    def lane_ids(self) -> tuple[int, ...]:
        """Ids of the classes whose pixels are separated into lanes."""
        return tuple(c.id for c in self.rows if c.instances == "lane")

    @property
    def crosswalk_ids(self) -> tuple[int, ...]:
        """Ids of the classes whose pixels are separated into crosswalks."""
        return tuple(c.id for c in self.rows if c.instances == "crosswalk")

    @property
    def instance_ids(self) -> tuple[int, ...]:
        """Ids of the classes whose pixels are separated into instances, lanes first."""
        return self.lane_ids + self.crosswalk_ids

    def palette(self) -> np.ndarray:
        """Colours of all 256 possible mask values: unlabelled pixels are white, ids outside the table black.

        Returns:
            (256, 3) uint8 RGB, so that ``palette()[semantic_mask]`` is an (H, W, 3) picture.
        """
        colors = np.zeros((256, 3), dtype=np.uint8)
        colors[: len(self.rows)] = [c.color for c in self.rows]
        colors[IGNORE_INDEX] = 255
        return colors

    def to_list(self) -> list[dict]:
        """Plain values for YAML and JSON, a dict for each class; ``from_list`` reads them back."""
        return [{**asdict(c), "color": list(c.color)} for c in self.rows]

    @classmethod
    def from_list(cls, rows: Sequence[dict]) -> "ClassTable":
        """A table from a list of mappings with ``id``, ``name``, ``color`` and, where there is a role, ``instances``.

        Raises:
            ValueError: a row that is no mapping, a key that is missing or unknown, a value that ``ClassTable`` refuses.
        """
        known, classes = [field.name for field in fields(LabelClass)], []
        for place, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"class {place} is {row!r}, expected a mapping with id, name and color")
            wrong = [key for key in row if key not in known] + [key for key in known[:3] if key not in row]
            if wrong:
                raise ValueError(f"class {place} has keys {list(row)}, expected id, name, color and maybe instances")
            color = tuple(row["color"]) if isinstance(row["color"], list) else row["color"]
            classes.append(LabelClass(**{**row, "color": color}))
        return cls(tuple(classes))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, c: LabelClass, key: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"class {c.id!r} ({c.name!r}): {key} is {getattr(c, key)!r}, expected {expected}")


CLASSES = ClassTable(
    (
        LabelClass(0, "background", (0, 0, 0)),
        LabelClass(1, "road", (76, 76, 76)),
        LabelClass(2, "lane_marking", (226, 140, 0), instances="lane"),
        LabelClass(3, "crosswalk", (255, 250, 165), instances="crosswalk"),
        LabelClass(4, "sidewalk", (180, 130, 140)),
        LabelClass(5, "lane_boundary", (70, 178, 235), instances="lane"),
    )
)
BACKGROUND, ROAD, LANE_MARKING, CROSSWALK, SIDEWALK, LANE_BOUNDARY = (c.id for c in CLASSES)

NUM_CLASSES = len(CLASSES)
CLASS_NAMES = CLASSES.names
LANE_CLASS_IDS = CLASSES.lane_ids
CROSSWALK_CLASS_IDS = CLASSES.crosswalk_ids
palette = CLASSES.palette

BINARY_CLASSES = ClassTable(
    (LabelClass(0, "background", (0, 0, 0)), LabelClass(1, "lane", (226, 140, 0), instances="lane"))
)

NIGHT_RIDE = ClassTable((
    LabelClass(0, "Undrivable", (40, 40, 60)), LabelClass(1, "Road", (120, 120, 120)),
    LabelClass(2, "Lane Mark", (255, 214, 0), "lane"), LabelClass(3, "Moveable", (0, 158, 115)),
    LabelClass(4, "My bike", (86, 180, 233)), LabelClass(5, "Rider", (213, 94, 0)),
))  # fmt: skip
"""Categories of the public data set "Motorcycle Night Ride"; what is unlabelled in it counts as undrivable."""


def table_for(num_classes: int) -> ClassTable:
    """The table of a model that says how many classes it has and nothing else.

    Raises:
        ValueError: neither 2 nor 6 classes: nothing tells which of them are lanes.
    """
    for table in (CLASSES, BINARY_CLASSES):
        if len(table) == num_classes:
            return table
    raise ValueError(
        f"num_classes is {num_classes}, and no class table of that size is known (2 and 6 are): "
        "give the setting `classes`, a list with id, name, color and instances of each class"
    )


LINE_WIDTH = 30 / 1640
"""Width of a drawn lane line as a share of the image width, as in CULane (X. Pan et al., "Spatial as Deep", AAAI 2018).

``scenes`` draws label lines so wide, ``metrics.LaneF1`` the lanes it compares; ``postprocess.road`` measures in it."""

LINE_SPACING = 2.0
"""Distance in line widths, centre to centre, from which two label lines can be told apart.

``scenes`` ends a label line where it comes nearer to another one; ``postprocess.road`` ends a continued curve there."""
