"""Data, weights and wheels to a lent GPU machine in parts of a size that travels, and its results back into the tables.

    python benchmarks/gpu/transfer.py pack first --data ../shared/data/ham10000 isic2017_level --wheels wheels
    python benchmarks/gpu/transfer.py install runs/gpu --root /tmp/pesi      # there; needs nothing but Python
    python benchmarks/gpu/transfer.py unpack rows.zip networks-1.zip         # here again; then pack.py

A pack is one compressed archive, cut in parts: each has a line that names the whole, so that parts may come one by one
and in any order, and a damaged or foreign one is told. Pictures travel as they are, or smaller (`--side`). What the
machine lacks of Python comes unpacked from wheels. README.md tells which calls to make.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WORK = REPOSITORY / "runs" / "benchmarks"
TREE, SPARE = 64 * 2**20, 2 * 2**20  # bytes that may travel with a call, and what is left free of them
COMMIT = "commit.txt"
_PICTURES, _MASKS = (".jpg", ".jpeg"), "masks"


class TransferError(Exception):
    """What cannot be packed or unpacked. No PesiError: `install` runs before there is anything but Python."""


def part_size() -> int:
    """What is left for a part beside the files of this repository, which travel with every call.

    Raises:
        TransferError: Next to nothing.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if listed.returncode:
        raise TransferError(f"{REPOSITORY} is no git repository, so what travels with a call is not known: --part-mb.")
    paths = [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name]
    tree = sum(path.stat().st_size for path in paths if path.is_file())
    if tree > TREE - 4 * SPARE:
        told = f"The repository's own files are {tree / 2**20:.0f} MiB of the {TREE / 2**20:.0f} that may travel."
        raise TransferError(f"{told} Take a branch without those that training does not need (README.md).")
    return TREE - SPARE - tree


def smaller(path: Path, side: int, quality: int) -> bytes:
    """A picture's file as it is, or, where its longer side is above `side` pixels (0: never), as a smaller JPEG."""
    import cv2

    data = path.read_bytes()
    picture = cv2.imread(str(path)) if side else None
    if picture is None or max(picture.shape[:2]) <= side:
        return data
    scale = side / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def data_files(folder: Path, *, side: int, quality: int, masks: bool) -> Iterator[tuple[str, bytes]]:
    """A data set's files as a pack holds them: its own tables, and its pictures; masks only where they are wanted.

    A folder without tables, such as `isic2017_512`, is read with those of `isic2017` beside it: they come too.

    Raises:
        TransferError: There are no pictures.
    """
    pictures = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and (masks or _MASKS not in name.parts):
            picture = path.suffix.lower() in _PICTURES
            pictures += picture
            yield (
                f"data/{folder.name}/{name.as_posix()}",
                smaller(path, side, quality) if picture else path.read_bytes(),
            )
    if not pictures:
        raise TransferError(f"{folder} holds no pictures.")
    beside = folder.parent / "isic2017"
    if beside != folder and not any(folder.glob("*.csv")):
        for path in sorted(file for file in beside.glob("*") if file.is_file()):
            yield f"data/isic2017/{path.name}", path.read_bytes()


def other_files(options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """Weights, networks of finished rows, wheels' contents, and which version and commit of the sources this is."""
    from importlib.metadata import version

    from pesi.train.environment import git_commit

    for path in options.weights:
        yield f"weights/{path.name}", path.read_bytes()
    for name in options.network:
        for path in sorted((options.work / name / "bundle").iterdir()):
            yield f"runs/{name}/bundle/{path.name}", path.read_bytes()
    for wheel in sorted(options.wheels.glob("*.whl")) if options.wheels else []:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield f"site/{entry.filename}", archive.read(entry)
    told = f"Metadata-Version: 2.1\nName: pesi-cnn\nVersion: {version('pesi-cnn')}\n"
    yield f"site/pesi_cnn-{version('pesi-cnn')}.dist-info/METADATA", told.encode()
    yield COMMIT, (git_commit() or "").encode()


def pack(options: argparse.Namespace) -> list[Path]:
    """Write a pack's parts.

    Returns:
        The files, NAME.part1 and so on.

    Raises:
        TransferError: A data folder has no pictures, or no room is left beside the repository.
    """
    size = int(options.part_mb * 1e6) if options.part_mb else part_size()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=6) as archive:
        look = {"side": options.side, "quality": options.quality, "masks": options.masks}
        for files in (*(data_files(folder, **look) for folder in options.data), other_files(options)):
            for name, data in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    data, digest = whole.getvalue(), hashlib.sha256(whole.getvalue()).hexdigest()
    count = -(-len(data) // size)
    even = -(-len(data) // count)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob(f"{options.name}.part*"):
        old.unlink()
    parts = []
    for number in range(count):
        path = options.out / f"{options.name}.part{number + 1}"
        line = json.dumps({"pack": options.name, "sha256": digest, "part": number + 1, "of": count})
        path.write_bytes(line.encode() + b"\n" + data[number * even : (number + 1) * even])
        parts.append(path)
    return parts


def install(folder: Path, root: Path) -> list[str]:
    """Take the parts that lie in a folder, and unpack every pack that is whole.

    Args:
        folder: Where the parts of this call are.
        root: Where what came is kept, on the machine: `data/`, `weights/`, `runs/`, `site/`.

    Returns:
        A line a pack: unpacked, or how many of its parts are here.

    Raises:
        TransferError: A pack is not what was packed.
    """
    kept = root / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    packs: dict[tuple[str, str, int], dict[int, Path]] = {}
    for path in sorted([*folder.glob("*.part*"), *kept.glob("*.part*")]):
        with path.open("rb") as file:
            line = json.loads(file.readline())
        here = kept / path.name
        if path.parent != kept and not here.is_file():
            shutil.copyfile(path, here)
        packs.setdefault((line["pack"], line["sha256"], line["of"]), {})[line["part"]] = here
    told = []
    for (name, digest, count), parts in packs.items():
        done = root / "installed" / digest
        if done.is_file():
            told.append(f"{name}: here")
            continue
        if len(parts) < count:
            told.append(f"{name}: {len(parts)} of {count} parts")
            continue
        data = b"".join(parts[number].read_bytes().partition(b"\n")[2] for number in sorted(parts))
        if hashlib.sha256(data).hexdigest() != digest:
            raise TransferError(f"The parts of {name} do not make what was packed: remove {kept}, pack again.")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(root, filter="data")
        done.parent.mkdir(exist_ok=True)
        done.touch()
        told.append(f"{name}: unpacked")
    return told


def unpack(archives: list[Path], *, tables: Path, work: Path) -> list[str]:
    """Bring results home: rows to where `pack.py` finds them, run folders with their networks to `work`.

    Args:
        archives: What `train_queue.py` wrote.
        tables: The folder of the tables' folders.
        work: Of the run folders.

    Returns:
        A line a row. One that is here already, made otherwise, stays as it is.

    Raises:
        TransferError: An archive is damaged, or a row's table is not here.
    """
    told = []
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                found = {name: archive.read(name) for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as error:
            raise TransferError(f"{path} cannot be read: {error}.") from error
        commit = found.pop(COMMIT, b"").decode() or None
        for name, data in found.items():  # in the order in which they were written: a row's JSON comes last
            place = PurePosixPath(name).parts
            if ".." in place or len(place) < 4:
                raise TransferError(f"{path} holds {name}, which is no result.")
            if place[0] == "runs":
                _write(work.joinpath(*place[1:]), data)
                told += [f"{'/'.join(place[1:4])}: network"] if place[-1] == "model.safetensors" else []
                continue
            table = tables / place[1] / f"{place[2]}.toml"
            if not table.is_file():
                raise TransferError(f"{path} holds rows of {place[1]}/{place[2]}, and there is no {table}.")
            target = table.with_suffix("") / "rows" / place[-1]
            row = target.with_name(target.name.removesuffix(target.suffix).removesuffix("-test") + ".json")
            if row.is_file() and json.loads(row.read_bytes()).get("finished") != _finished(found, place):
                told += [f"{place[1]}/{place[2]}/{row.stem}: is here already, made otherwise"] * (target == row)
                continue
            if target == row:
                content = json.loads(data)
                content["git_commit"] = content["git_commit"] or commit
                told.append(f"{place[1]}/{place[2]}/{row.stem}: {content['device']}, {content['seconds']:.0f} s")
                data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
            _write(target, data)
    return told


def _finished(found: dict[str, bytes], place: tuple[str, ...]) -> str | None:
    """When the row that a file in an archive is of was finished."""
    stem = PurePosixPath(place[-1]).stem.removesuffix("-test")
    row = found.get("/".join((*place[:-1], f"{stem}.json")))
    return None if row is None else json.loads(row).get("finished")


def _write(path: Path, data: bytes) -> None:
    from pesi.files import whole_file

    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="write a pack's parts")
    packing.add_argument("name")
    packing.add_argument("--data", type=Path, nargs="+", default=[], metavar="FOLDER", help="data sets")
    packing.add_argument("--weights", type=Path, nargs="+", default=[], metavar="FILE", help="weights to start from")
    packing.add_argument("--network", nargs="+", default=[], metavar="TABLE/ROW", help="networks of finished rows")
    packing.add_argument("--wheels", type=Path, metavar="FOLDER", help="of packages that the machine lacks")
    packing.add_argument("--side", type=int, default=0, help="pictures with a longer side are made smaller; 0: none")
    packing.add_argument("--quality", type=int, default=90, help="of JPEGs that are made smaller")
    packing.add_argument("--masks", action="store_true", help="with the lesion masks")
    packing.add_argument("--part-mb", type=float, default=0, help="default: what is left beside the repository")
    packing.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "gpu")
    packing.add_argument("--work", type=Path, default=WORK, help="of the run folders")
    installing = verbs.add_parser("install", help="on the machine: take parts, unpack what is whole")
    installing.add_argument("folder", type=Path)
    installing.add_argument("--root", type=Path, default=Path("/tmp/pesi"))
    unpacking = verbs.add_parser("unpack", help="bring results into the tables' folders")
    unpacking.add_argument("archives", type=Path, nargs="+", metavar="ZIP")
    unpacking.add_argument("--tables", type=Path, default=HERE.parent, help="folder of the tables' folders")
    unpacking.add_argument("--work", type=Path, default=WORK, help="for the run folders with the networks")
    options = parser.parse_args()
    try:
        if options.verb == "pack":
            told = [f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in pack(options)]
        elif options.verb == "install":
            told = install(options.folder, options.root)
        else:
            told = unpack(options.archives, tables=options.tables, work=options.work)
    except (TransferError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
