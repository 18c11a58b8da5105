"""Files that appear complete or not at all, and model files that cannot run code.

A model file is in the safetensors format: a length, a JSON header, then raw numbers. Reading one never executes
anything, unlike a pickle, which ``torch.load`` would run.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch

KIND = "roadtopo_lib.lane_model"
"""Written into every model file, so that another project's weights are not mistaken for ours."""

_PICKLE_SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, then renames it into place.

    Args:
        path: the final place; missing parent folders are made.
        write: called with the temporary path.

    Raises:
        PermissionError: the folder cannot be written to; names it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except (PermissionError, NotADirectoryError, FileExistsError, OSError) as error:
        raise PermissionError(f"{path.parent}: cannot write to this folder ({error.strerror or error})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a result is as readable as any other file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes a text file (UTF-8) that appears complete or not at all."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, values: dict) -> None:
    """Writes JSON that appears complete or not at all."""
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")


def check_writable(path: str | Path) -> None:
    """Refuses a file that cannot be written, before the work that would be lost with it.

    Raises:
        IsADirectoryError: there is a folder of that name.
        PermissionError: its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder, expected the name of a file")
    trial = path.with_name(f".{path.name}.trial")  # what already lies at the path itself stays
    write_text_atomic(trial, "")
    trial.unlink()


def save_weights(path: str | Path, tensors: dict[str, torch.Tensor], config: dict, **info: object) -> None:
    """Writes a model file: weights plus the settings that rebuild the model.

    Args:
        path: where, by custom ending in ``.safetensors``.
        tensors: the model's ``state_dict()``.
        config: plain values that describe the model.
        info: anything else worth keeping beside it (epoch, scores), JSON-serialisable.
    """
    metadata = {"kind": KIND, "config": json.dumps(config), "info": json.dumps(info)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = _with_sorted_metadata(safetensors.torch.save(contiguous, metadata=metadata))
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def _with_sorted_metadata(content: bytes) -> bytes:
    """A safetensors file whose metadata stand in the order of their names: equal models make equal files."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + sorted_header.ljust(length) + content[8 + length :]


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict, dict]:
    """Reads a model file written by ``save_weights``.

    Returns:
        (tensors, config, info).

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, of another kind, or a pickle; names the file and what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file, expected a .safetensors file written by this library")
    with path.open("rb") as file:
        start = file.read(4)
    if any(start.startswith(signature) for signature in _PICKLE_SIGNATURES):
        raise ValueError(
            f"{path}: this is a pickled checkpoint, which can run any code when loaded; refused. "
            "Expected a .safetensors file written by this library"
        )
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if metadata.get("kind") != KIND:
                found = metadata.get("kind") or f"a safetensors file with {len(names)} tensors and no kind"
                raise ValueError(f"{path}: expected a lane model ({KIND}), found {found}")
            tensors = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error})") from None
    try:
        return tensors, json.loads(metadata["config"]), json.loads(metadata.get("info", "{}"))
    except (KeyError, json.JSONDecodeError):
        raise ValueError(f"{path}: the model's settings in the file header are missing or damaged") from None
