"""Copies images into folders by split and class, or moves them without loss even when interrupted.

Moves are recorded in DIR/.moves.tsv before the first one. At every moment each image is complete at its old place or at its new
one; `finish_moves` completes the recorded moves, after any number of interruptions.
"""

import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cnnkit import class_names, files, tar_archives
from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.choices import Link
from cnnkit.data import containment, split_archives, split_names, tar_source
from cnnkit.data.containment import inside
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic, image_formats, manifest, tsv
from cnnkit.formats.box import is_crop
from cnnkit.formats.manifest import ManifestRow

#: Name of the manifest in a folder of splits.
SPLIT_MANIFEST = "split.tsv"

_MOVES = ".moves.tsv"
_HALF_COPY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_RESERVED = (SPLIT_MANIFEST, _MOVES)
_COLUMNS = ("from", "path", "label", "split", "group")

log = logging.getLogger("cnnkit")


def has_unfinished_moves(folder: str | Path) -> bool:
    """Return whether a move of images into this folder was interrupted."""
    return (Path(folder) / _MOVES).is_file()


def finish_moves(
    folder: str | Path,
    name: str,
    *,
    named: Callable[[], Iterable[str]] | None = None,
    progress: Progress = ignore_progress,
) -> list[ManifestRow]:
    """Complete the moves recorded in a folder, and list the images in a manifest.

    The record may have been edited: nothing is moved to a place outside of the folder, and no image that was not given.

    Args:
        folder: Target of the moves.
        name: Name of the manifest in that folder; it is written when all images are there.
        named: Returns the paths of the images that may be moved; not called if none is left to be moved. By default any may be.
        progress: Called with the number of images in place, and the total.

    Returns:
        The rows of the manifest.

    Raises:
        CnnkitError: An image is neither at its old place nor at its new one, or two different ones are at both; or the record
            names an image that may not be moved.
    """
    folder = Path(folder)
    with atomic.claimed(folder):
        return _finish_moves(folder, name, named=named, progress=progress)


def _finish_moves(
    folder: Path, name: str, *, named: Callable[[], Iterable[str]] | None = None, progress: Progress
) -> list[ManifestRow]:
    lines = list(tsv.load(folder / _MOVES, required=[column for column in _COLUMNS if column != "label"]))
    rows = [manifest.row(line, str(folder / _MOVES)) for line in lines]
    _check_places(folder, [row.path for row in rows], listed=folder / _MOVES)
    if (folder / name).is_symlink():
        raise CnnkitError(f"{folder / name} is a link; remove it or choose another folder")
    moves = [(os.path.join(folder, line["from"]), folder / line["path"]) for line in lines]
    if named is not None:
        _check_named([path for path, _ in moves if os.path.lexists(path)], named, listed=folder / _MOVES)
    try:
        # Links are moved before the images that they point to, while there still is something to copy
        for done, (path, target) in enumerate(sorted(moves, key=lambda move: not os.path.islink(move[0])), start=1):
            _move(path, target)
            progress(done, len(moves))
        manifest.save(folder / name, rows, columns=manifest.columns(rows))
    except BaseException:
        log.warning("%s: not all images are moved; run the command again to resume", folder)
        raise
    (folder / _MOVES).unlink()
    return rows


def _check_places(folder: Path, places: Iterable[str], *, listed: Path | None = None) -> None:
    """Check that files written to these places stay inside a folder, and are not redirected by a link that leads out of it.

    Args:
        folder: Folder of all places.
        places: Relative to it.
        listed: The file that lists them, if it may have been edited.
    """
    possible, lies_inside = inside("", reserved=_RESERVED), inside(folder)
    for place in places:
        if listed is not None and not possible(place):
            raise CnnkitError(
                f"{listed} lists {place!r}, which is not a valid path of an image in {folder}; remove that file"
            )
        containment.check_place(folder, place, lies_inside, replaced=listed is None)


def _check_named(left: Sequence[str], named: Callable[[], Iterable[str]], *, listed: Path) -> None:
    if not left:
        return
    known = {_real(path) for path in named()}
    for path in left:
        if _real(path) not in known:
            raise CnnkitError(
                f"{listed} lists {path}, which is not among the images given; give the same sources again, or remove that file"
            )


def _real(path: str) -> str:
    """Return a path with links in its folders resolved; a link itself keeps its own path."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def record_moves(folder: Path, moves: Iterable[tuple[str, ManifestRow]]) -> None:
    """Record moves durably.

    Args:
        folder: Target of the moves.
        moves: For each image its path relative to the current folder, and its row of the manifest, with the path relative to `folder`.
    """
    moves = list(moves)
    needed = manifest.columns([row for _, row in moves])
    digests = [column for column in needed if column in manifest.DIGEST_COLUMNS]
    columns = ["labels" if column == "label" and "labels" in needed else column for column in _COLUMNS[1:]]
    lines = [
        [manifest.seen_from(folder, path), *(manifest.field(row, column) for column in (*columns, *digests))]
        for path, row in moves
    ]
    if os.path.lexists(folder / _MOVES):
        raise CnnkitError(f"{folder / _MOVES} already exists; remove it or choose another folder")
    tsv.save(folder / _MOVES, [_COLUMNS[0], *columns, *digests], lines)
    _sync(folder)


def _move(path: str, target: Path) -> None:
    if not os.path.lexists(path):
        if not target.exists():
            raise CnnkitError(f"{path} is missing, and is not at {target}; restore it, or delete its line in {_MOVES}")
        return
    if os.path.lexists(target):  # interrupted between the copy and the removal
        if digest_of(path) != digest_of(target):
            raise CnnkitError(f"{target} already exists, and is not {path}; move it away")
        os.unlink(path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.islink(path):
        try:
            os.rename(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    copy_file(path, target, durable=True)
    os.unlink(path)


def copy_file(path: str | Path, target: Path, *, durable: bool = False) -> None:
    """Copy content, times and permissions (of a file in an archive, its content); the target gets its name when it is complete."""
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if files.is_member(path):
            with files.open_regular(path) as file, temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        else:
            shutil.copy2(path, temporary)
        if durable:
            _sync(temporary)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: str | Path) -> bytes:
    """Hash the content of a file, as `examine` does."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def write(
    folder: str | Path,
    rows: Sequence[ManifestRow],
    *,
    digests: Mapping[str, bytes] | None,
    link: Link = Link.COPY,
    per_tar: int | None = None,
    force: bool = False,
    progress: Progress = ignore_progress,
) -> list[ManifestRow]:
    """Put images into folders by split and class, or into tar archives by split, and list them in `split.tsv`.

    Args:
        folder: Created if it is missing, with its parents.
        rows: Paths relative to the current folder; every row is in a split.
        digests: For each path the sha256 of the file; None to read the files if that is needed.
        link: Copy, link or move.
        per_tar: Number of images in each archive; None for folders.
        force: Accept a folder that is not empty, and replace an earlier split in it.
        progress: Called with the number of images in place, and the total.

    Returns:
        The rows of `split.tsv`, with paths relative to the folder.

    Raises:
        CnnkitError: The folder is not empty, or contains the images themselves; a label cannot be a folder; `force` would delete
            the only copy of an image.
    """
    folder = Path(folder)
    check_link(link, (row.path for row in rows))
    places = _places(rows)
    if per_tar is not None:
        places = split_archives.places(rows, places, per=per_tar)
    check_apart(folder, (row.path for row in rows), to_be="split")
    check_free(folder, force=force)
    with _taken_back() as made:
        _make_folder(folder, made)
        with atomic.claimed(folder):
            _check_free(folder, force=force)  # again, since another run may have written into it
            left: set[Path] = _left(folder, rows, digests) if force else set()
            for place in map(_file_of, places) if force else ():  # else the folder is empty
                if os.path.lexists(folder / place) and folder / place not in left:
                    raise CnnkitError(f"{folder / place} already exists; move it away or choose another folder")
            _check_places(folder, places)
            if force:
                _remove(folder, left | _half_copies(folder, {row.split for row in rows if row.split}))
            if per_tar is not None:
                listed = split_archives.write(folder, rows, places, made=made, progress=progress)
                manifest.save(folder / SPLIT_MANIFEST, listed, columns=manifest.columns(listed))
                return listed
            listed = [
                ManifestRow(place, row.label, row.split, row.group, digest=row.digest, labels=row.labels)
                for place, row in zip(places, rows, strict=True)
            ]
            targets = [(row.path, place) for row, place in zip(rows, listed, strict=True)]
            if link is Link.MOVE:
                record_moves(folder, targets)
                made.clear()  # from here on, an interrupted run is not undone but resumed
                return _finish_moves(folder, SPLIT_MANIFEST, progress=progress)
            seen_from, there = functools.cache(manifest.seen_from), set()  # images share folders
            for done, (path, row) in enumerate(targets, start=1):
                target = os.path.join(folder, row.path)
                below = os.path.dirname(target)
                if below not in there:
                    _make_folder(Path(below), made)
                    there.add(below)
                if link is Link.SYMLINK:
                    source, name = os.path.split(path)
                    os.symlink(os.path.join(seen_from(below, source), name), target)
                else:
                    _place(path, Path(target), link)
                made.append(target)
                progress(done, len(targets))
            manifest.save(folder / SPLIT_MANIFEST, listed, columns=manifest.columns(listed))
    return listed


def check_free(folder: str | Path, *, force: bool) -> None:
    """Check that a folder can be written to: before hours of work, and again before the first image.

    Raises:
        CnnkitError: It is not empty, not a folder, another run is writing into it, or moves into it were interrupted.
    """
    folder = Path(folder)
    if folder.is_dir():
        with atomic.claimed(folder):
            pass
    _check_free(folder, force=force)


def _check_free(folder: Path, *, force: bool) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise CnnkitError(f"{folder} is not a folder; choose another name")
    if has_unfinished_moves(folder):
        raise CnnkitError(f"{folder}: a move of images into it was interrupted; complete it with --link move")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise CnnkitError(f"{folder} is not empty; choose another folder, or add --force")


@contextlib.contextmanager
def writing_into(folder: Path | None, *, force: bool) -> Generator[None]:
    """Lock a folder while this run writes files into it; it is removed again if nothing was written.

    Args:
        folder: Created if it is missing, with its parents; None if nothing is to be written.
        force: Accept a folder that is not empty.

    Raises:
        CnnkitError: As `check_free`.
    """
    if folder is None:
        yield
        return
    check_free(folder, force=force)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.claimed(folder):
            _check_free(folder, force=force)  # again, since another run may have written into it
            yield
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # not empty
                each.rmdir()


# ---------------------------------------------------------------- places


def _places(rows: Sequence[ManifestRow]) -> list[str]:
    """Return a unique path for each image: split, class, and its path relative to the common folder of its class."""
    given = [row.path for row in rows]
    paths = tar_source.unpacked_paths(given)
    rows = [row if row.path == path else replace(row, path=path) for row, path in zip(rows, paths, strict=True)]
    folders: defaultdict[str | None, set[str]] = defaultdict(set)
    absolute = functools.cache(os.path.abspath)  # images share folders
    for row in rows:
        folders[row.label].add(absolute(os.path.dirname(row.path)))
    common = {label: os.path.commonpath(below) for label, below in folders.items()}
    for label in folders:
        if label is not None and (not label or label.startswith(".") or os.sep in label or "\0" in label):
            raise CnnkitError(
                f"class {label!r} cannot be the name of a folder; write a manifest instead, with --manifest"
            )
    places: dict[str, str] = {}
    for row, path, below in zip(rows, given, _below_classes(rows, common), strict=True):
        place = "/".join(filter(None, (row.split, row.label, below)))
        if place in places:
            raise CnnkitError(f"{places[place]} and {path} would both become {place}; rename one of them")
        places[place] = path
    return list(places)


def _below_classes(rows: Sequence[ManifestRow], common: Mapping[str | None, str]) -> list[str]:
    """Return each image's path relative to the common folder of its class, for a split dataset without train/cat/.

    If names of a class would collide, the old split stays in the path: train/1.jpg.
    """

    @functools.cache  # images share folders
    def below(folder: str, label: str | None) -> str:
        relative = os.path.relpath(os.path.abspath(folder), common[label]).replace(os.sep, "/")
        return "" if relative == os.curdir else f"{relative}/"

    full = [below(folder, row.label) + name for row in rows for folder, name in [os.path.split(row.path)]]
    parted = [_without_class(path, row.label) for path, row in zip(full, rows, strict=True)]
    counts = Counter((row.label, name) for row, (_, name) in zip(rows, parted, strict=True))
    clashing = {label for (label, _), count in counts.items() if count > 1}
    return [
        "/".join(filter(None, pair)) if row.label in clashing else pair[1]
        for row, pair in zip(rows, parted, strict=True)
    ]


def _without_class(path: str, label: str | None) -> tuple[str, str]:
    """Divide train/cat/1.jpg into the old split and the path in the class folder; other paths have no old split."""
    split, *rest = path.split("/")
    if len(rest) < 2 or class_names.normal(rest[0]) != label or not split_names.is_split(split):
        return "", path
    return split, "/".join(rest[1:])


def check_link(link: Link, paths: Iterable[str]) -> None:
    """Check that images can be linked or moved, and that they are whole files.

    Raises:
        CnnkitError: One is in a tar archive or an idx file.
        UsageError: One is a crop.
    """
    paths = list(paths)
    if (crop := next(filter(is_crop, paths), None)) is not None:
        raise UsageError(
            f"{crop} is a crop of a file, and -o copies whole files; write --manifest FILE.tsv, which keeps the boxes"
        )
    if link is not Link.COPY and (packed := next((path for path in paths if files.is_member(path)), None)):
        kind = "a tar archive" if any(tar_archives.divided(packed)) else "an idx file"
        raise CnnkitError(f"{packed} is in {kind} and can only be copied; use --link copy")


def check_apart(folder: str | Path, paths: Iterable[str], *, to_be: str) -> None:
    """Check that an output folder contains none of the input images.

    Args:
        folder: The output folder.
        paths: Of the images.
        to_be: The operation, for the message, such as "split".

    Raises:
        CnnkitError: It contains one.
    """
    real = os.path.realpath(folder)
    for below in {os.path.dirname(path) for path in paths}:
        if os.path.commonpath([real, os.path.realpath(below)]) == real:
            raise CnnkitError(
                f"{folder} contains the images that are to be {to_be} ({below or os.curdir}); choose another folder"
            )


def _left(folder: Path, rows: Sequence[ManifestRow], digests: Mapping[str, bytes] | None) -> set[Path]:
    """Find the images of an earlier split, and check that none of them is the only copy."""
    old = manifest.load(folder / SPLIT_MANIFEST) if (folder / SPLIT_MANIFEST).is_file() else []
    splits = {row.split for row in [*rows, *old] if row.split}
    found = {
        os.path.relpath(os.path.join(below, name), folder)
        for split in splits
        for below, _, names in os.walk(folder / split)
        for name in names
        if image_formats.has_image_extension(name)
    }
    # The list and the links may have been edited: files outside of the folder are never touched
    lies_inside = inside(folder, reserved=_RESERVED)
    listed = {place for place in found | {_file_of(row.path) for row in old} if lies_inside(place)}
    left = {folder / place for place in listed if os.path.lexists(folder / place)}

    @functools.cache
    def elsewhere() -> dict[bytes, str]:
        known = {row.path: digest_of(row.path) for row in rows} if digests is None else digests
        return {digest: path for path, digest in known.items()}

    for path in sorted(left):
        if files.is_tar(path) and path.is_file() and not path.is_symlink():
            for name in files.tar_index(str(path)).members:
                if image_formats.has_image_extension(name) and digest_of(path / name) not in elsewhere():
                    raise CnnkitError(f"{path}/{name} is the only copy and would be deleted; move the archive away")
            continue
        if not path.is_symlink() and not path.is_file():
            raise CnnkitError(f"{path} already exists, and is not a file; move it away or choose another folder")
        if not path.is_symlink() and not _lies_elsewhere(path, elsewhere()):
            raise CnnkitError(f"{path} is the only copy and would be deleted; move it away or choose another folder")
    return left


def _half_copies(folder: Path, splits: Iterable[str]) -> set[Path]:
    """Find the incomplete copies of a killed run; the caller holds the folder's lock, so no other run is writing them."""
    lies_inside = inside(folder)
    found = {Path(below, name) for split in splits for below, _, names in os.walk(folder / split) for name in names}
    found |= {Path(entry.path) for entry in os.scandir(folder)}  # of archives
    return {
        path
        for path in found
        if _HALF_COPY.fullmatch(path.name) and lies_inside(os.path.relpath(path, folder)) and not path.is_symlink()
    }


def _file_of(place: str) -> str:
    """Return the file to which an image of an earlier split belongs: itself, or its archive directly in the folder."""
    archive, separator, _ = place.partition(tar_archives.EXTENSION + "/")
    return place if not separator or "/" in archive else archive + tar_archives.EXTENSION


def _remove(folder: Path, left: set[Path]) -> None:
    (folder / SPLIT_MANIFEST).unlink(missing_ok=True)
    for path in left:
        path.unlink()
    for below in sorted({above for path in left for above in path.parents if folder in above.parents}, reverse=True):
        with contextlib.suppress(OSError):  # not empty
            below.rmdir()


def _lies_elsewhere(path: Path, elsewhere: Mapping[bytes, str]) -> bool:
    other = elsewhere.get(digest_of(path))
    if other is not None and files.is_member(other):
        return True
    # Two paths of one file, as through a mount: deleting one deletes the other, except for hard links
    return other is not None and (not os.path.samefile(path, other) or path.stat().st_nlink > 1)


# ---------------------------------------------------------------- copies and links


@contextlib.contextmanager
def _taken_back() -> Generator[list[str | Path]]:
    """On failure, remove the files and folders that were made, the latest first.

    Yields:
        A list to record them in.
    """
    made: list[str | Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                Path(path).unlink(missing_ok=True)
        raise


def _make_folder(folder: Path, made: list[str | Path]) -> None:
    if not folder.exists():
        _make_folder(folder.parent, made)
        folder.mkdir()
        made.append(folder)


def _place(path: str, target: Path, link: Link) -> None:
    if link is Link.HARDLINK:
        try:
            os.link(os.path.realpath(path), target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise CnnkitError(f"{target.parent} is on another disk than {path}; use --link copy or symlink") from error
    else:
        copy_file(path, target)
