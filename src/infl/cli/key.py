"""``infl key``: the life of a key ring, from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.rings import IdentityFile, Ring, changing, find_ring, make_ring, open_identity, open_ring
from infl.errors import FileError, KeyringError

if TYPE_CHECKING:
    from infl.keys import Keyring

DEFAULT_RING, SITE_RING = Path("consortium.key"), Path("site.key")
"""A key holder's ring, and what a site calls its own: the key holder's site has both."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The ring's file to write, NAME.key.")] = DEFAULT_RING,
    recipient: Annotated[
        list[str] | None, typer.Option(help="Public key of a key holder who may open it, NAME.pub; may be repeated.")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase that opens it.")] = False,
) -> None:
    """Make a key ring, and become its key holder.

    It opens with your own identity, which is made if you have none; with other identities (--recipient); or with a
    passphrase (--passphrase, or INFL_KEY_PASSPHRASE).

    Example: `infl key new consortium.key`
    """
    make_ring(file, recipient, passphrase)


@app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(envvar="INFL_KEY", help="A ring's file.  [default: the one ring in this folder]")
    ] = None,
    identity: IdentityFile = None,
    trail: Annotated[bool, typer.Option("--trail", help="Print every line of the grant trail, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is public, as JSON.")] = False,
) -> None:
    """Print fingerprints, versions and grants; never a secret.

    Example: `infl key show consortium.key --trail`
    """
    file = find_ring(file)
    ring = open_ring(file, identity)
    if as_json:
        public = {
            "file": str(file),
            "is_holder": ring.is_holder,
            "holder": ring.trail.holder_fingerprint(),
            "fingerprints": {version: ring.fingerprint(version) for version in ring.versions},
            "members": {name: list(member.versions) for name, member in ring.members.items()},
            "trail": ring.trail.to_json(),
        }
        typer.echo(json.dumps(public, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{file}: {'the key holder’s ring' if ring.is_holder else 'a granted ring'}")
    typer.echo(f"key holder    {ring.trail.holder_fingerprint()}")
    for version in ring.versions:
        current = "  (current)" if version == ring.current else ""
        typer.echo(f"version {version:<5} {ring.fingerprint(version)}{current}")
    for name, member in ring.members.items():
        unsigned = "" if member.identity else f"; no member of runs between machines, grant its new {name}.pub"
        typer.echo(f"granted       {name}: {_versions(member.versions)}{unsigned}")
    if trail:
        for line in ring.trail.lines:
            what = " ".join(filter(None, (line.action, line.who, _versions(line.versions))))
            typer.echo(f"{line.number:>4}  {line.when}  {what}")


@app.command()
def rotate(key: Ring = None, identity: IdentityFile = None) -> None:
    """Add a version to the ring, and write each granted site its file anew.

    Models that exist stay under their version until `infl model relock`.

    Example: `infl key rotate --key consortium.key`
    """
    file = find_ring(key)
    with changing(file, identity) as ring:
        for name in ring.members:
            _copy_for(name, file)
        ring.rotate()
    typer.echo(f"{file}: version {ring.current}, fingerprint {ring.fingerprint()}")
    _write_grants(ring, file)


@app.command()
def grant(
    site: Annotated[str, typer.Argument(metavar="SITE.pub", help="The site's public key, from `infl key identity`.")],
    key: Ring = None,
    identity: IdentityFile = None,
    name: Annotated[str | None, typer.Option(help="The site's name.  [default: that of its file]")] = None,
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Older versions too, to open older models.")] = (
        False
    ),
    out: Annotated[Path | None, typer.Option(help="File for the site.  [default: RING.SITE.key]")] = None,
) -> None:
    """Grant a site the current version, and write the file that only that site can open.

    The other sites' files are written anew: in a run a site accepts those only whom its own copy of the trail names.

    Example: `infl key grant hospital_b.pub`
    """
    file = find_ring(key)
    if name is None:
        if site.startswith("age1"):
            raise KeyringError("whose public key is it? give --name SITE, or the key's file SITE.pub")
        name = Path(site).stem
    with changing(file, identity) as ring:
        _copy_for(name, file, out)  # nothing is granted if the files cannot be written
        others = [other for other in ring.members if other != name]
        for other in others:
            _copy_for(other, file)
        before = len(ring.trail.lines)
        ring.grant(name, site, versions=ring.versions if all_versions else None)
    versions = _versions(ring.members[name].versions)
    typer.echo(f"{name}: {'granted' if len(ring.trail.lines) > before else 'already had'} {versions}")
    _write_grant(ring, name, file, out)
    if len(ring.trail.lines) > before:
        for other in others:
            _write_grant(ring, other, file)


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name, as `infl key show` has it.")],
    key: Ring = None,
    identity: IdentityFile = None,
) -> None:
    """Take a site's grant away: add a version, and write it for the other sites.

    What the site already holds it keeps: it opens what was locked under older versions. Lock models anew
    (`infl model relock`) and keep the old files from it.

    Example: `infl key revoke hospital_b`
    """
    file = find_ring(key)
    with changing(file, identity) as ring:
        for name in ring.members:
            _copy_for(name, file)
        ring.revoke(site)
    typer.echo(f"{file}: {site} revoked; version {ring.current}, fingerprint {ring.fingerprint()}")
    typer.echo(f"{site} keeps what it holds: lock models anew with `infl model relock`.")
    _write_grants(ring, file)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What the key holder sent.")],
    into: Annotated[Path, typer.Option(help="This site's own ring, made if it is missing.")] = SITE_RING,
    identity: IdentityFile = None,
    holder: Annotated[str | None, typer.Option(help="Refuse it from any other key holder than this.")] = None,
) -> None:
    """Take what the key holder granted into this site's own ring.

    Example: `infl key import consortium.hospital_b.key`
    """
    from infl.keys import Keyring

    granted = open_ring(file, identity, in_transit=True)
    if granted.is_holder:
        raise KeyringError(
            f"{file} is a key holder's own ring and should not travel: ask for what `infl key grant` wrote"
        )
    found = granted.trail.holder_fingerprint()
    if holder is not None and holder != found:
        raise KeyringError(f"{file} is from the key holder {found}, not {holder}: do not use it, ask the key holder")
    if into.exists():
        with changing(into, identity) as ring:
            fresh = ring.accept(granted)
        typer.echo(f"{into}: {f'{_versions(fresh)} added' if fresh else 'nothing new'}")
    else:
        ring = Keyring.only(granted, granted.versions)
        ring.save(into, recipients=open_identity(identity))
        typer.echo(f"{into}: {_versions(ring.versions)}")
        typer.echo(f"Key holder {found}: compare it with the key holder's `infl key show`, by telephone.")
    typer.echo(f"version {ring.current}, fingerprint {ring.fingerprint()}")


@app.command()
def identity(
    name: Annotated[str, typer.Argument(help="The site's name; its public keys are written to NAME.pub.")],
    identity: Annotated[
        Path | None, typer.Option("--identity", help="Identity file, made if it is missing.  [default: your own]")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase for a new identity.")] = False,
) -> None:
    """Make this site's identity if it has none, and write its public keys for the key holder.

    Example: `infl key identity hospital_b`
    """
    from infl.keys.identity import own_path

    path = own_path() if identity is None else identity
    if passphrase and path.exists():
        raise FileError(f"{path} exists already: name another with --identity")
    mine = open_identity(identity, create=True, passphrase=passphrase)
    public = Path(f"{name}.pub")
    there = public.read_text(errors="replace").strip() if public.exists() else ""
    if there != mine.public_line:
        mine.save_public(public, overwrite=there == mine.public)  # as infl 0.1 wrote it
    typer.echo(f"{path}: this site's identity; it never leaves the site.")
    typer.echo(f"{public}: its public keys {mine.public_line}; send it to the key holder.")


def _write_grants(ring: Keyring, file: Path) -> None:
    for name in ring.members:
        _write_grant(ring, name, file)


def _write_grant(ring: Keyring, name: str, file: Path, out: Path | None = None) -> None:
    path, replace = _copy_for(name, file, out)
    ring.granted(name).save(path, overwrite=replace)
    typer.echo(f"{path}: for {name}, who alone can open it; send it any way you like.")


def _copy_for(name: str, file: Path, out: Path | None = None) -> tuple[Path, bool]:
    """Return where a site's copy of the ring goes, and whether it replaces an earlier one."""
    from infl.keys.age import is_age

    if out is None:
        out = file.with_name(f"{file.stem}.{name}.key")
        if not out.exists():
            return out, False
        if out.is_file() and is_age(out.read_bytes()):
            return out, True
    elif not out.exists():
        return out, False
    raise FileError(f"{out} is in the way of the file for {name}: move it, or name another with `infl key grant --out`")


def _versions(versions: list[int] | tuple[int, ...]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))}" if versions else ""
