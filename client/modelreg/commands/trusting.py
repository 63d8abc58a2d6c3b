"""trust init, trust issue, trust issue-tsa, trust show."""

import argparse
import getpass
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from modelreg import pinned, pki, trust
from modelreg.commands import now, output_of, settings_of
from modelreg.commands.weights import PASSWORD_VARIABLE
from modelreg.digests import sha256_of
from modelreg.durable import make_folder, sync_folder
from modelreg.errors import Conflict, Invalid, Misconfigured
from modelreg.notes import ED25519, parse_key
from modelreg.signing import load_private_key

ROOT, INTERMEDIATE = "root", "intermediate"
POLICY_FILE = "trust.toml"


def run_init(options: argparse.Namespace) -> int:
    """`modelreg trust init DIR`: a root to keep offline, an intermediate, and the trust policy that pins the root."""
    output, folder, at = output_of(options), options.directory, now()
    password = _password(options.password)
    for name in (f"{ROOT}.key.pem", f"{INTERMEDIATE}.key.pem", POLICY_FILE):
        if (folder / name).exists():
            raise Conflict(f"{folder / name} exists; a PKI is not overwritten, choose another folder", path=str(folder))
    root = pki.make_root(options.name, at)
    intermediate = pki.make_intermediate(options.name, root, at)
    policy = _policy_text(
        root.certificate,
        options.repository,
        options.identity,
        at,
        approvers=options.approver,
        distributed=options.distributed,
        log=options.log,
    )
    trust.parse(policy.encode())  # what is written can be read
    make_folder(folder)
    for name, issuer in ((ROOT, root), (INTERMEDIATE, intermediate)):
        _write_new(folder / f"{name}.key.pem", pki.private_pem(issuer.private_key, password), 0o600)
        _write_new(folder / f"{name}.crt.pem", pki.certificate_pem(issuer.certificate), 0o644)
    _write_new(folder / POLICY_FILE, policy.encode(), 0o644)
    output.result(
        {"directory": str(folder), "policy": str(folder / POLICY_FILE)},
        f"made a root, an intermediate and {folder / POLICY_FILE}",
        f"  move {folder / (ROOT + '.key.pem')} to offline storage; it is needed again only for a new intermediate",
        f"  distribute it with its revocations: modelreg trust repo add DIR {folder / POLICY_FILE}"
        if options.distributed
        else f"  pin the policy on every machine: copy it to {settings_of(options).trust_policy} or set MODELREG_TRUST_POLICY",
    )
    return 0


def run_issue(options: argparse.Namespace) -> int:
    """`modelreg trust issue DIR IDENTITY`: a signer's key and certificate chain, from the intermediate."""
    output, folder = output_of(options), options.directory
    issuer = _load_issuer(folder, INTERMEDIATE, _password(options.password))
    signer = pki.issue_signer(options.identity, issuer, now(), options.days)
    stem: Path = options.output or folder / options.identity.partition(":")[2].replace("/", "_")
    key, chain = _write_pair(stem, signer, issuer, _password(options.key_password))
    output.result(
        {"key": str(key), "certificate": str(chain), "not_after": signer.certificate.not_valid_after_utc},
        f"issued {options.identity} until {signer.certificate.not_valid_after_utc:%Y-%m-%d}",
        f"  push with: --key {key} --certificate {chain}",
    )
    return 0


def run_issue_tsa(options: argparse.Namespace) -> int:
    """`modelreg trust issue-tsa DIR`: key and certificate chain of a time-stamping authority, from the intermediate."""
    output, folder = output_of(options), options.directory
    issuer = _load_issuer(folder, INTERMEDIATE, _password(options.password))
    tsa = pki.issue_tsa(options.name, issuer, now(), options.days)
    stem: Path = options.output or folder / "tsa"
    key, chain = _write_pair(stem, tsa, issuer, _password(options.key_password))
    output.result(
        {"key": str(key), "certificate": str(chain), "not_after": tsa.certificate.not_valid_after_utc},
        f"issued a time-stamping authority until {tsa.certificate.not_valid_after_utc:%Y-%m-%d}; its stamps stay good after",
        f"  run it: MODELREG_TSA_KEY={key} MODELREG_TSA_CERTIFICATE={chain} modelreg-server serve",
        f"  believe it: {folder / (ROOT + '.crt.pem')} belongs in [time_authorities] of the trust policy",
    )
    return 0


def run_show(options: argparse.Namespace) -> int:
    """`modelreg trust show`: what is pinned on this machine."""
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    source = settings.registry if pinned.takes_pinned(settings) else settings.trust_policy
    lines = [
        f"policy       {source} version {policy.version}, {policy.digest}",
        f"expires      {policy.expires:%Y-%m-%d %H:%M}Z",
        f"revocations  {policy.revocations.updated_at:%Y-%m-%d %H:%M}Z: {len(policy.revocations.artifacts)} artifacts",
        f"             and {len(policy.revocations.signers)} signers",
    ]
    authorities: dict[str, list[str]] = {}
    for name, authority in policy.authorities.items():
        authorities[name] = _pins(authority)
        lines += [f"authority    {name}: {pin}" for pin in authorities[name]]
    for name, time in policy.time_authorities.items():
        pins = _pins(time)
        authorities[f"time:{name}"] = pins
        lines += [f"time         {name}: {pin}" for pin in pins]
    rules = []
    for rule in policy.rules:
        for entry in rule.allow:
            rules.append(
                {"repositories": rule.repositories, "authority": entry.authority, "identities": entry.identities}
            )
            lines.append(
                f"rule         {', '.join(rule.repositories)}: {', '.join(entry.identities)} of {entry.authority}"
            )
    lines += _log_lines(policy.log)
    value = {
        "version": policy.version,
        "expires": policy.expires,
        "authorities": authorities,
        "rules": rules,
        "log": policy.log and {"origin": policy.log.origin, "keys": [str(key) for key in policy.log.keys]},
    }
    output.result(value, *lines)
    policy.require_fresh(now())  # shown even when stale, but not without saying so
    return 0


def _log_lines(log: trust.LogTrust | None) -> list[str]:
    if log is None:
        return ["log          none is pinned: receipts are kept, not verified"]
    return [
        *(f"log          {key}" for key in log.keys),
        *(f"witness      {key}" for key in log.witnesses),
        *([f"             {log.required_witnesses} of the witnesses must vouch"] if log.witnesses else []),
    ]


def _pins(authority: trust.Authority | trust.TimeAuthority) -> list[str]:
    match authority:
        case trust.KeyAuthority():
            return [f"key {key.name} {key.key_id}" for key in authority.keys]
        case trust.CertificateAuthority() | trust.TimeAuthority():
            return [
                f"root {root.subject.rfc4514_string()} sha256:{root.fingerprint(hashes.SHA256()).hex()} "
                f"until {root.not_valid_after_utc:%Y-%m-%d}"
                for root in authority.roots
            ]
        case trust.SigstoreAuthority():
            return [f"sigstore {authority.issuer}, trusted root {sha256_of(authority.trusted_root.text.encode())}"]


def _write_pair(stem: Path, leaf: pki.Issuer, issuer: pki.Issuer, password: bytes | None) -> tuple[Path, Path]:
    key, chain = stem.with_name(stem.name + ".key.pem"), stem.with_name(stem.name + ".chain.pem")
    make_folder(key.parent)
    _write_new(key, pki.private_pem(leaf.private_key, password), 0o600)
    # Leaf and intermediate; the root is pinned by whoever verifies, so it is not sent along.
    _write_new(chain, pki.certificate_pem(leaf.certificate) + pki.certificate_pem(issuer.certificate), 0o644)
    return key, chain


def _load_issuer(folder: Path, name: str, password: bytes | None) -> pki.Issuer:
    try:
        key = load_private_key((folder / f"{name}.key.pem").read_bytes(), password)
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{folder} has no usable {name}: {error}; make one with `modelreg trust init`") from None
    return pki.Issuer(key, certificate)


def _password(ask: bool) -> bytes | None:
    if not ask:
        return None
    given = os.environ.get(PASSWORD_VARIABLE) or getpass.getpass("Password for the private key: ")
    if not given:
        raise Misconfigured("an empty password protects nothing; leave --password away or type one")
    return given.encode()


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist, with its mode from the first moment."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise Conflict(f"{path} exists; it is not overwritten", path=str(path)) from None
    with open(fd, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _texts(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _log_table(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    origins = {parse_key(key, "--log", ED25519).name for key in keys}
    if len(origins) > 1:
        raise Invalid(f"--log names {len(origins)} logs; a trust policy pins one, under one or more keys", field="log")
    return f"""
# The registry's custody log: every grant must come with its receipt. `modelreg-server log key` prints the key.
[log]
origin = "{origins.pop()}"
keys = {_texts(keys)}
"""


def _policy_text(
    root: x509.Certificate,
    repositories: list[str],
    identities: list[str],
    at: datetime,
    *,
    approvers: Sequence[str] = (),
    distributed: bool = False,
    log: Sequence[str] = (),
) -> str:
    approving = f"""
[[rules]]
repositories = {_texts(repositories)}
attests = ["approval", "waiver", "declassification"]
allow = [{{authority = "pki", identities = {_texts(approvers)}}}]
"""
    top = f'revocations = "{trust.DISTRIBUTED}"\n' if distributed else ""
    table = f"""
[revocations]
updated_at = {at:%Y-%m-%dT%H:%M:%SZ}
max_age_seconds = {365 * 86400}
artifacts = []
signers = []
"""
    return f"""# Who may sign for which repository: docs/spec/trust-policy.md. Raise `version` with every change.
schema = "{trust.SCHEMA}"
version = 1
expires = {at + timedelta(days=365):%Y-%m-%dT%H:%M:%SZ}
{top}
[authorities.pki]
method = "certificate"
usage = "codeSigning"
timestamps = ["registry-tsa"]
roots = [\'\'\'
{root.public_bytes(serialization.Encoding.PEM).decode()}\'\'\']

# Who may say when a signature was made: `modelreg trust issue-tsa` makes the registry's.
[time_authorities.registry-tsa]
roots = [\'\'\'
{root.public_bytes(serialization.Encoding.PEM).decode()}\'\'\']

[[rules]]
repositories = {_texts(repositories)}
allow = [{{authority = "pki", identities = {_texts(identities)}}}]
{approving if approvers else ""}{"" if distributed else table}{_log_table(log)}"""
