"""The plan of the house: floors, no circles, no private name across rooms, and sizes that a reader can hold in mind."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "roadtopo_lib"

FLOORS = {
    "labels": 1, "files": 1, "console": 1, "seeding": 1, "plain_yaml": 1, "strips": 1,
    "decoding": 1, "distributed": 1,
    "config": 2, "hub": 2, "viz": 2, "data": 2, "processes": 2,
    "models": 3, "losses": 3, "metrics": 3, "scenes": 3,
    "dataset": 4, "segformer": 4, "postprocess": 4, "training": 4, "data/convert": 4,
    "pipeline": 5, "trainer_lane": 5,
    "inference": 6, "confidence": 6,
    "tracking": 7,
    "course": 7,
    "electives": 7,
    "app": 8,
}  # fmt: skip
"""A room imports only from floors below its own. A room is a module of the library or a folder of modules."""

TAUGHT = (
    "labels", "config", "models", "segformer", "losses", "dataset", "trainer_lane", "postprocess", "metrics",
    "pipeline", "viz",
)  # fmt: skip
"""The rooms that notebooks 1 to 7 teach."""

AROUND = ("data", "training", "inference")

MODULES = sorted(path.relative_to(LIBRARY) for path in LIBRARY.rglob("*.py"))


def room_of(module):
    """``losses/region.py`` and ``config.py`` are of the rooms ``losses`` and ``config``; converters have their own."""
    inner = "/".join(module.parts[:2])
    return inner if inner in FLOORS else module.parts[0].removesuffix(".py")


def imports(module):
    """(line, dotted path within the library, name or ``None``) of everything a module imports from the library."""
    tree = ast.parse((LIBRARY / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "roadtopo_lib":
                    yield node.lineno, alias.name.partition(".")[2], None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            if node.module.split(".")[0] == "roadtopo_lib":
                inside = node.module.partition(".")[2]
                for alias in node.names:
                    yield node.lineno, inside or alias.name, alias.name if inside else None


def lines(*rooms):
    return sum(
        len((LIBRARY / module).read_text(encoding="utf-8").splitlines())
        for module in MODULES
        if room_of(module) in rooms
    )


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_room_imports_from_floors_below_its_own(module):
    room = room_of(module)
    for line, path, _ in imports(module):
        other = room_of(Path(*path.split(".")))
        if other not in (room, "__version__"):
            assert FLOORS[other] < FLOORS[room], f"{module}:{line} climbs to {other}"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nobody_imports_another_rooms_private_name_or_everything(module):
    for line, path, name in imports(module):
        assert name != "*", f"{module}:{line}: a star hides what is used"
        if path.split(".")[0] != room_of(module):
            private = [part for part in (*path.split("."), name or "") if part.startswith("_") and part[:2] != "__"]
            assert not private, f"{module}:{line} reaches for {private[0]}"


def test_modules_do_not_import_each_other_in_a_circle():
    known = {".".join(m.with_suffix("").parts).removesuffix(".__init__"): m for m in MODULES}
    graph = {}
    for name, module in known.items():
        wanted = {f"{path}.{part}" if f"{path}.{part}" in known else path for _, path, part in imports(module)}
        graph[name] = (wanted & known.keys()) - {name}
    finished = set()

    def visit(name, above):
        assert name not in above, " → ".join([*above[above.index(name) :], name])
        if name not in finished:
            for other in sorted(graph[name]):
                visit(other, [*above, name])
            finished.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_file_has_at_most_400_lines(module):
    assert len((LIBRARY / module).read_text(encoding="utf-8").splitlines()) <= 400


def test_the_rooms_stay_small_enough_to_read():
    assert lines("trainer_lane") <= 250
    assert lines(*TAUGHT) <= 4500
    assert lines(*AROUND) <= 2500
