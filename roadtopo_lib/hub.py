"""The hub of pretrained weights: where it is, whether it answers, and folders in its layout, read and written.

Nothing but the standard library is imported at the top: ``doctor`` asks, too, where everything else is broken.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from roadtopo_lib.files import check_file, write_atomic, write_json

HUB_TIMEOUT = 3.0
"""Seconds that the hub has to answer, name look-up included."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""One of these must lie in a folder of the hub's layout, beside ``config.json``; an index names the parts of a large
checkpoint. Those that end in ``.bin`` are pickles: torch reads their tensors and refuses all that would run code."""

LAYOUT = "the hub's layout: config.json and model.safetensors"

MOST_CONFIG = 1 << 20
"""Bytes of a ``config.json``, at most; published ones have 5,000."""


def hub_settings() -> tuple[str, bool]:
    """The hub's address, and whether it must not be asked (``HF_HUB_OFFLINE``); ImportError without its client."""
    from huggingface_hub import constants

    return constants.ENDPOINT, constants.HF_HUB_OFFLINE


def ask_hub(endpoint: str) -> str | None:
    """Sends one HEAD request to the address of a hub; returns what went wrong, or ``None``."""
    from huggingface_hub.utils import get_session

    problems = [f"no answer within {HUB_TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=HUB_TIMEOUT).status_code
            problems.append(f"HTTP status {status}" if status >= 500 else None)
        except Exception as error:  # the client's errors differ between versions of huggingface_hub
            problems.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}")

    # The client's timeout does not cover the name look-up, which can hang for many seconds without a network.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return problems[-1]


def load_network(load: Callable, name: str, backbone: str, sizes: dict, classifier: str):
    """A network with the weights of a hub id or of a local folder in the hub's layout.

    Args:
        load: ``from_pretrained`` of the network's class in transformers, with what it needs besides the name.
        name: hub id or folder. A folder is never looked for on the hub.
        backbone: what errors call the architecture.
        sizes: its settings, which the checkpoint must have.
        classifier: how the names of the tensors begin that may be new. A checkpoint of an encoder alone has no head:
            that may be new as a whole.

    Raises:
        FileNotFoundError: a path without a folder, or a folder without config or weights.
        ValueError: weights of another architecture, damaged, incomplete, or not finite.
        ConnectionError: neither on disk nor within reach.
    """
    folder = Path(name).expanduser()
    is_local = folder.is_dir() or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    place = str(folder) if is_local else name
    if is_local:
        check_sizes(_read_config(folder), backbone, sizes, name)
    try:
        try:
            network, report = load(place, local_files_only=True, output_loading_info=True)
        except OSError:
            # Ask once first: the hub's client tries six times, for half a minute, and prints every failure.
            if is_local or ask_hub(hub_settings()[0]) is not None:
                raise
            network, report = load(name, output_loading_info=True)
    except Exception as error:  # damaged files raise errors of many libraries
        found = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        if "Unpickling" in found:
            found = "a pickle that holds more than tensors, and might run code; refused"
        if is_local or not isinstance(error, OSError):
            raise ValueError(f"{name}: weights cannot be read ({found})") from None
        raise ConnectionError(
            f"cannot load the weights {name!r}: neither in a local folder nor reachable on the hub. Without a network, "
            "use backbone='tiny' with pretrained=False, or pass pretrained='FOLDER' with a downloaded copy"
        ) from error
    check_sizes(network.config.to_dict(), backbone, sizes, name)
    head = classifier.split(".")[0] + "."
    missing = {tensor for tensor in report["missing_keys"] if not tensor.startswith(classifier)}
    if missing == {key for key in network.state_dict() if key.startswith(head) and not key.startswith(classifier)}:
        missing = set()  # an encoder alone
    wrong = missing | {tensor for tensor, *_ in report["mismatched_keys"] if not tensor.startswith(classifier)}
    if wrong:
        found = f"tensors that are missing or of another shape: {len(wrong)}, {min(wrong)} first"
        raise ValueError(f"{name}: {found}; only the classifier may be new")
    for tensor, values in network.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"{name}: NaN or infinite weights in {tensor}, expected finite ones")
    return network


def check_sizes(found: dict, backbone: str, sizes: dict, name: str) -> None:
    """Refuses a checkpoint of another architecture; settings that it does not name are left to the network."""
    for key, expected in sizes.items():
        if key in found and found[key] != expected:
            raise ValueError(f"{name}: {key} is {found[key]}, but backbone {backbone!r} has {expected}")


def _read_config(folder: Path) -> dict:
    """The settings in ``config.json`` of a folder that holds weights, too."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected one in {LAYOUT}")
    path = folder / "config.json"
    check_file(path, "file", LAYOUT, MOST_CONFIG)
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        raise FileNotFoundError(f"{folder}: holds none of {', '.join(WEIGHTS)}, expected {LAYOUT}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "segformer":
        raise ValueError(f"{path}: model_type is {kind!r}, expected 'segformer'")
    return config


def write_folder(folder: str | Path, kind: str, settings: dict, info: dict) -> None:
    """Writes what lies beside ``model.safetensors`` in the folder of a model of ours: config and model card."""
    folder = Path(folder)
    write_json(folder / "config.json", {"library": "roadtopo_lib", "kind": kind, "config": settings})
    write_atomic(folder / "README.md", model_card(kind, settings, info))


def weights_of(folder: str | Path, kind: str) -> Path:
    """The weights in a folder that ``write_folder`` has completed.

    Raises:
        FileNotFoundError: no such folder, or without config or weights.
        ValueError: a folder of another library, or of another kind of model.
    """
    folder = Path(folder)
    path, weights = folder / "config.json", folder / WEIGHTS[0]
    for file in (path, weights):
        check_file(file, "file", "a folder that save_pretrained wrote", MOST_CONFIG if file == path else None)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = config["kind"] if config["library"] == "roadtopo_lib" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if found != kind:
        raise ValueError(f"{path}: kind is {found!r}, expected {kind!r}, in a folder that save_pretrained wrote")
    return weights


def model_card(kind: str, settings: dict, info: dict) -> str:
    """The text of a model card: what the model is, how it was made, what it scores; what nobody noted is left out.

    Args:
        kind, settings: of the model, see ``models.StoredModel``.
        info: what was saved beside the weights: of ``training`` the seed and sizes, of ``card`` the data, the command,
            the hours, the limits and the scores, and what a run keeps (``epoch``, ``val_loss``, ``val_miou``).
    """
    card = info.get("card") if isinstance(info.get("card"), dict) else {}
    training = info.get("training") if isinstance(info.get("training"), dict) else {}
    run = {name: info[name] for name in ("epoch", "val_loss", "val_miou") if name in info}
    made = {
        "data": card.get("data"), "command": card.get("command"), "seed": training.get("seed"),
        "image size (height, width)": training.get("image_size"), "rows cut off above": training.get("crop_top"),
        "hours of one core": card.get("hours"), "limits": card.get("limits"),
    }  # fmt: skip
    scores = {**run, **(card["scores"] if isinstance(card.get("scores"), dict) else {})}
    parts = [
        f"---\nlibrary_name: roadtopo_lib\npipeline_tag: image-segmentation\n---\n\n# Lane model ({kind})\n\n"
        "Separates lanes and crosswalks of a road image into instances: class logits and embeddings for each pixel.\n",
        "```python\nfrom roadtopo_lib.confidence import load_segmenter\n\n"
        f'result = load_segmenter("{WEIGHTS[0]}")("road.jpg")\n```\n',
    ]
    for title, rows in (("Architecture", settings), ("Made of", made), ("Scores", scores)):
        known = {name: value for name, value in rows.items() if value is not None}
        lines = "".join(f"| {name} | {_shown(value)} |\n" for name, value in known.items())
        parts.append(f"## {title}\n\n" + (f"| | |\n|---|---|\n{lines}" if known else "Not recorded.\n"))
    return "\n".join(parts)


def _shown(value: object) -> str:
    """A value in a cell of a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.replace("|", "\\|").split())
