"""Where the files of a named data set come from: $SAPPER_DATA, else the user's cache, else the network."""

import os
from pathlib import Path
from typing import Any

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sapper.errors import DataError


def cache() -> Path:
    """The user's cache of data and built-in models; $SAPPER_CACHE where that is set."""
    return Path(os.environ.get("SAPPER_CACHE") or pooch.os_cache("sapper"))


def provided(data_set: str) -> Path | None:
    """The data set's folder in $SAPPER_DATA, if there is one."""
    root = os.environ.get("SAPPER_DATA")
    folder = Path(root) / data_set if root else None
    return folder if folder is not None and folder.is_dir() else None


def find(data_set: str, url: str, known_hash: str, size: str) -> Path:
    """The file that `url` names: from $SAPPER_DATA/`data_set`, from the cache, or downloaded into the cache.

    Args:
        data_set: The folder's name.
        url: Its last part is the file's name.
        known_hash: Of the download, as "md5:…" or "sha256:…". A file in $SAPPER_DATA is the user's own and may be
            packed differently; it is checked by its content.
        size: Of the download, for people.
    """
    name = url.rsplit("/", 1)[-1]
    folder = provided(data_set)
    if folder is not None and (folder / name).is_file():
        return folder / name
    return download(url, known_hash, cache() / "data" / data_set / name, size)


def download(url: str, known_hash: str, to: Path, size: str) -> Path:
    """Downloads to a temporary file and renames it once its hash is right; does nothing if it is there already."""
    bar: Any = _Bar(to.name)
    fetch: Any = pooch.HTTPDownloader(progressbar=bar, timeout=30)
    way_out = (
        f"download it ({size}) by hand to {to}, or set SAPPER_DATA to a folder that has {to.parent.name}/{to.name}."
    )
    log_level = pooch.get_logger().level
    pooch.get_logger().setLevel("ERROR")  # its lines would break into the progress display
    try:
        return Path(pooch.retrieve(url, known_hash, fname=to.name, path=to.parent, downloader=fetch))
    except requests.RequestException as error:
        raise DataError(f"cannot download {url}: {error}. Check the network, {way_out}") from error
    except ValueError as error:  # pooch's word for a wrong hash
        raise DataError(
            f"{url} is not the file it should be: expected hash {known_hash}, got another. "
            f"The download was damaged or the file replaced: try again, or {way_out}"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot write {to}: {error}. Free some space, or set SAPPER_CACHE to another folder."
        ) from error
    finally:
        bar.close()
        pooch.get_logger().setLevel(log_level)


class _Bar:
    """A rich progress bar with the four names of tqdm's that pooch calls."""

    def __init__(self, name: str) -> None:
        columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task(name, total=None)
        self.total: int = 0

    def update(self, size: int) -> None:
        self.progress.start()
        self.progress.update(self.task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        self.progress.stop()
