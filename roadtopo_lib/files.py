"""Files that appear complete or not at all, and model files that cannot run code.

A model file is in the safetensors format: a length, a JSON header, then raw numbers. Reading one never executes
anything, unlike a pickle, which ``torch.load`` would run.
"""

import json
import os
import stat
import time
import unicodedata
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a process that renders scenes writes files, but needs no torch: loading it takes seconds
    import torch

UNFINISHED = ".roadtopo_lib.tmp"
"""Ending of a file that is being written. A killed process leaves it behind, see ``clear_unfinished``."""

HEADER_KEY = "roadtopo_lib"
"""Marks a model file of this library, so that another project's weights are not mistaken for ours.

It is the header's only entry beside the tensors: safetensors writes several in a random order, and equal models would
make different files.
"""

HIDDEN = (".", "__MACOSX", "@eaDir")
"""How names of hidden files and folders begin. macOS puts ``._a.jpg`` beside a.jpg, and ``__MACOSX`` into an archive;
a NAS of Synology puts thumbnails into ``@eaDir``."""

MOST_HEADER = 1 << 24
"""Bytes of a model file's header, at most: its parser takes a hundred times as much. Ours are below 1 MB."""

_PICKLE_SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def check_file(path: str | Path, kind: str = "file", expected: str = "a file", most: int | None = None) -> None:
    """Refuses what is no regular file, before it is opened: a pipe waits for ever, and a device may have no end.

    Args:
        path: of a file that somebody else has written; a link to a file is one.
        kind: what is missing if there is nothing, for the error.
        expected: for the error.
        most: bytes that the file may have.

    Raises:
        FileNotFoundError: nothing of that name.
        ValueError: a folder, pipe, socket or device, or a larger file.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can be called so
        raise FileNotFoundError(f"{path}: no such {kind}, expected {expected}") from None
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ValueError(f"{path}: this is {found}, expected {expected}")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path}: has {status.st_size} bytes, expected at most {most}")


def utf8_name(path: str | Path) -> str:
    """A path for a library in C++ or Rust, which knows names in UTF-8 only: OpenCV ends the process for others.

    Raises:
        ValueError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: the name of this file is not UTF-8, expected one that is") from None
    return str(path)


def lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a file lies in one of some folders, links followed."""
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def list_files(folder: str | Path, *endings: str, deep: bool = False) -> list[Path]:
    """Files whose names end so, sorted by name; every listing of a folder goes through here.

    Pipes and devices are no files, links that lead nowhere are. Hidden files, and with ``deep`` all that lies in hidden
    folders, are left out, see ``HIDDEN``.

    Args:
        folder: where to look.
        endings: such as ``".jpg"``, in small letters; names may have capitals.
        deep: look into subfolders, too, also into those that are links.
    """
    paths = _below(Path(folder), set()) if deep else Path(folder).iterdir()
    named = (path for path in paths if not path.name.startswith(HIDDEN) and path.name.lower().endswith(endings))
    found = [path for path in named if path.is_file() or not path.exists()]  # no pipe, no device; a broken link is told
    return sorted(found, key=lambda path: plain_name(str(path)))


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Files below a folder. Links to folders are followed, into each folder once: links may lead round in a circle."""
    real = folder.resolve()
    for path in sorted(folder.iterdir()) if real not in seen else ():
        seen.add(real)
        if path.is_dir() and not path.name.startswith(HIDDEN):
            yield from _below(path, seen)
        else:
            yield path


def plain_name(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS and some archives spell an ü as u and two dots."""
    return unicodedata.normalize("NFC", name)


def find_file(path: Path) -> Path:
    """The path as it lies on disk, whose folders and name may be spelt in another of Unicode's forms; else the path."""
    if path.exists():
        return path
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        forms = (part, plain_name(part), unicodedata.normalize("NFD", part))
        found = next((found / form for form in forms if (found / form).exists()), found / part)
    return found


class WeightsFile(NamedTuple):
    """What a model file holds."""

    kind: str
    """Which model class it belongs to, such as ``"segformer"``."""
    tensors: "dict[str, torch.Tensor]"
    """The model's ``state_dict()``, on the CPU."""
    config: dict
    """Plain values that rebuild the model."""
    info: dict
    """What else was saved beside it (epoch, scores, settings of the training)."""


def write_atomic(path: str | Path, content: bytes | str, durable: bool = True) -> None:
    """Writes a file that appears complete or not at all: a temporary file beside it is renamed into place.

    Args:
        path: the final place; missing parent folders are made, and a file that lies there is replaced.
        content: text is written as UTF-8, with the line ends that it has.
        durable: wait until the disk holds file and name, so that they survive a power cut, too. That takes about 10 ms:
            ``False`` is for files by the thousand that can be made again.

    Raises:
        OSError: the file cannot be written, for example ``PermissionError`` or a full disk; names ``path`` and the
            reason.
    """
    with temporary_beside(Path(path)) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    if durable:
        _sync_folder(Path(path).parent)


@contextmanager
def temporary_beside(path: Path, ending: str = "") -> Iterator[Path]:
    """A new empty file in the folder of ``path``, removed at the end; ``ending`` for those who go by a name's."""
    temporary = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}{ending}")
    with naming(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):  # the rename would put a file in a device's place
            raise OSError("a pipe, socket or device lies there")
        temporary.touch(exist_ok=False)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside, an error of the system names ``path`` and the reason, and keeps its kind; one that is named passes."""
    try:
        yield
    except OSError as error:
        if getattr(error, "is_named", False):
            raise
        named = type(error)(f"{path}: cannot be written ({error.strerror or error})")
        named.errno, named.is_named = error.errno, True
        raise named from None


def _sync_folder(folder: Path) -> None:
    """Waits until the disk holds the folder's names; Windows and some network file systems have no such call."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_unfinished(folder: str | Path, older_than: float = 0.0) -> None:
    """Removes what killed processes have left half-written.

    Args:
        folder: where to look; not in its subfolders.
        older_than: leave what was written to in the last so many seconds; 0 where nobody else writes into the folder.
    """
    for path in Path(folder).glob(f"*{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another process was quicker
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def write_json(path: str | Path, values: dict, durable: bool = True) -> None:
    """Writes JSON that appears complete or not at all, see ``write_atomic``."""
    write_atomic(path, json.dumps(values, indent=2) + "\n", durable)


def check_writable(path: str | Path) -> None:
    """Refuses a file that cannot be written, before the work that would be lost with it.

    Raises:
        IsADirectoryError: there is a folder of that name.
        OSError: as for ``write_atomic``.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder, expected the name of a file")
    with temporary_beside(path):
        pass


def save_weights(path: str | Path, kind: str, tensors: "dict[str, torch.Tensor]", config: dict, **info: object) -> None:
    """Writes a model file: weights plus the settings that rebuild the model. Equal models make equal files.

    Args:
        path: where, by custom ending in ``.safetensors``.
        kind: which model class the weights belong to, such as ``"segformer"``.
        tensors: the model's ``state_dict()``.
        config: plain values that describe the model.
        info: anything else worth keeping beside it (epoch, scores), JSON-serialisable.

    Raises:
        OSError: as for ``write_atomic``.
    """
    import safetensors.torch

    header = json.dumps({"kind": kind, "config": config, "info": info}, sort_keys=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(contiguous, metadata={HEADER_KEY: header}))


def load_weights(path: str | Path, finite: bool = True) -> WeightsFile:
    """Reads a model file written by ``save_weights``; opens it once.

    Args:
        path: the file.
        finite: refuse weights that are NaN or infinite: such a model finds nothing, and says so of every image.

    Returns:
        kind, tensors, config and info, as they were saved.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not of this library, a pickle, with weights that are not finite, or a name that is not
            UTF-8; names the file and what was found.
    """
    import safetensors

    path = Path(path)
    check_file(path, "model file", "a .safetensors file written by this library")
    with path.open("rb") as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    is_pickle = start.startswith(_PICKLE_SIGNATURES)
    try:
        if not is_pickle and MOST_HEADER < length < path.stat().st_size:
            raise safetensors.SafetensorError(f"a header of {length} bytes, expected at most {MOST_HEADER}")
        with safetensors.safe_open(utf8_name(path), framework="pt") as file:
            names = list(file.keys())
            header = (file.metadata() or {}).get(HEADER_KEY)
            if header is None:
                raise ValueError(
                    f"{path}: expected a model file of this library, found a safetensors file with "
                    f"{len(names)} tensors and no entry {HEADER_KEY!r} in its header"
                )
            tensors = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        if is_pickle:
            raise ValueError(
                f"{path}: this is a pickled checkpoint, which can run any code when loaded; refused. "
                "Expected a .safetensors file written by this library"
            ) from None
        raise ValueError(f"{path}: truncated or not a safetensors file ({error!s:.200})") from None
    try:
        values = json.loads(header)
        kind, config, info = (values[name] for name in ("kind", "config", "info"))
        if not (isinstance(kind, str) and isinstance(config, dict) and isinstance(info, dict)):
            raise TypeError
    except (KeyError, TypeError, RecursionError, ValueError):  # ValueError: no JSON, or thousands of digits
        raise ValueError(f"{path}: the model's settings in the file header are missing or damaged") from None
    narrow = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.element_size() < 2]
    if narrow:
        raise ValueError(f"{path}: {narrow[0]} is of type {tensors[narrow[0]].dtype}, expected 16 bits at least")
    damaged = [name for name in tensors if finite and not tensors[name].isfinite().all()]
    if damaged:
        found = f"{len(damaged)} of {len(tensors)} tensors, {damaged[0]} first"
        raise ValueError(f"{path}: NaN or infinite weights in {found}: damaged, or of a training that diverged")
    return WeightsFile(kind, tensors, config, info)


def save_nested(path: str | Path, kind: str, values: dict) -> None:
    """Writes nested dicts and lists of plain values and tensors as a safetensors file with a checksum.

    Args:
        path: where, by custom ending in ``.safetensors``.
        kind: what the file is, where a model file names its kind of model.
        values: keys are texts or numbers; a tuple comes back as a list.

    Raises:
        OSError: as for ``write_atomic``.
    """
    tensors: dict = {}
    plain = _packed(values, kind, tensors)
    save_weights(path, kind, tensors, {}, values=plain, checksum=_checksum(plain, tensors))


def load_nested(path: str | Path, kind: str) -> dict:
    """Reads what ``save_nested`` wrote, tensors onto the CPU. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, changed since it was written, or of another kind; names the file.
    """
    file = load_weights(path, finite=False)
    if file.kind != kind:
        raise ValueError(f"{path}: found a file of kind {file.kind!r}, expected {kind!r}")
    try:
        plain = file.info["values"]
        if file.info["checksum"] != _checksum(plain, file.tensors):
            raise ValueError("its checksum is another one")
        return _unpacked(plain, file.tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error}), expected a whole file of kind {kind!r}") from None


def _packed(value: object, name: str, tensors: dict) -> object:
    """A value for JSON. A dict becomes a list of pairs: keys stay numbers, and keep their order. Tensors move out."""
    if hasattr(value, "detach"):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _packed(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]
    return value


def _unpacked(value: object, tensors: dict) -> object:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpacked(item, tensors) for key, item in value["pairs"]}
    return [_unpacked(item, tensors) for item in value] if isinstance(value, list) else value


def _checksum(plain: object, tensors: dict) -> int:
    """CRC-32 of the values and the tensors: a lost block of a disk, or a copy that was cut off, changes it."""
    import torch

    checksum = zlib.crc32(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum
