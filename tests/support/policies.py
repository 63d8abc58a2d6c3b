"""Trust policies for tests, as the TOML text an operator would write.

text = policy_toml(key_authority("ops", {"ops-1": signer}), allow={"ops": ["key:ops-1"]})
policy = trust.parse(text.encode())
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from modelreg import trust
from support import keys


def key_authority(
    name: str,
    pinned: Mapping[str, Any],
    *,
    not_after: Mapping[str, datetime] | None = None,
    legacy: bool | None = None,
    **times: Any,
) -> str:
    """An authority of public keys; `pinned` maps a key's name to a key, a signer or PEM text."""
    rows = []
    for key_name, key in pinned.items():
        pem = key if isinstance(key, str) else keys.public_pem(key)
        end = f", not_after = {_time(not_after[key_name])}" if not_after and key_name in not_after else ""
        rows.append(f"{{name = {_text(key_name)}, pem = {_text(pem)}{end}}}")
    return _authority(name, "key", [f"keys = [{', '.join(rows)}]", *_times(**times)], legacy)


def certificate_authority(
    name: str, *roots: Any, usage: str = "codeSigning", legacy: bool | None = None, **times: Any
) -> str:
    """An authority of pinned roots, each a certificate, a `pki.Issuer`, a `keys.Chain` or PEM text."""
    pems = ", ".join(_text(_root_pem(root)) for root in roots)
    return _authority(name, "certificate", [f"usage = {_text(usage)}", f"roots = [{pems}]", *_times(**times)], legacy)


def time_authority(name: str, *roots: Any, **window: datetime) -> str:
    """A `[time_authorities.…]` with `not_before` and `not_after`, if given."""
    pems = ", ".join(_text(_root_pem(root)) for root in roots)
    lines = [f"{member} = {_time(at)}" for member, at in window.items()]
    return "\n".join([f"[time_authorities.{_text(name)}]", f"roots = [{pems}]", *lines, ""])


def _times(timestamps: Sequence[str] | None = None, require_timestamp: bool | None = None) -> list[str]:
    lines = [] if timestamps is None else [f"timestamps = {_texts(timestamps)}"]
    return lines + ([] if require_timestamp is None else [f"require_timestamp = {str(require_timestamp).lower()}"])


def sigstore_authority(name: str, trusted_root: str, issuer: str) -> str:
    """An authority of a Sigstore; `trusted_root` is JSON."""
    return "\n".join(
        [
            f"[authorities.{_text(name)}]",
            'method = "sigstore"',
            f"issuer = {_text(issuer)}",
            f"trusted_root = {_text(trusted_root)}",
            "",
        ]
    )


def rule(repositories: Sequence[str], allow: Mapping[str, Sequence[str]], attests: Sequence[str] | None = None) -> str:
    """One `[[rules]]`; `allow` maps an authority to identity patterns, `attests` makes it one about statements."""
    entries = ", ".join(
        f"{{authority = {_text(authority)}, identities = {_texts(identities)}}}"
        for authority, identities in allow.items()
    )
    kinds = "" if attests is None else f"attests = {_texts(attests)}\n"
    return f"[[rules]]\nrepositories = {_texts(repositories)}\n{kinds}allow = [{entries}]\n"


def policy_toml(
    *authorities: str,
    allow: Mapping[str, Sequence[str]] | None = None,
    rules: Sequence[str] | None = None,
    version: int = 1,
    expires: datetime = keys.NOW + timedelta(days=365),
    updated_at: datetime = keys.NOW - timedelta(days=1),
    max_age_seconds: int = 30 * 86400,
    revoked_artifacts: Sequence[Any] = (),
    revoked_signers: Sequence[Mapping[str, Any]] = (),
    quarantined: Mapping[Any, str] | None = None,
) -> str:
    """A whole policy. `allow` is short for one rule over `acme/*`; `rules` are texts of `rule`, in order."""
    if rules is None:
        rules = [rule(["acme/*"], allow or {})]
    signers = ", ".join(
        "{" + ", ".join(f"{name} = {_value(value)}" for name, value in entry.items()) + "}" for entry in revoked_signers
    )
    held = ", ".join(
        f"{{artifact = {_text(str(digest))}, reason = {_text(reason)}}}"
        for digest, reason in (quarantined or {}).items()
    )
    return "\n".join(
        [
            f'schema = "{trust.SCHEMA}"',
            f"version = {version}",
            f"expires = {_time(expires)}",
            "",
            *authorities,
            *rules,
            "[revocations]",
            f"updated_at = {_time(updated_at)}",
            f"max_age_seconds = {max_age_seconds}",
            f"artifacts = {_texts([str(digest) for digest in revoked_artifacts])}",
            f"signers = [{signers}]",
            *([f"quarantined = [{held}]"] if held else []),
            "",
        ]
    )


def policy(*authorities: str, **arguments: Any) -> trust.TrustPolicy:
    """`policy_toml`, parsed."""
    return trust.parse(policy_toml(*authorities, **arguments).encode())


def _authority(name: str, method: str, lines: Sequence[str], legacy: bool | None) -> str:
    flag = [] if legacy is None else [f"legacy_oms_0_2 = {str(legacy).lower()}"]
    return "\n".join([f"[authorities.{_text(name)}]", f'method = "{method}"', *lines, *flag, ""])


def _root_pem(root: Any) -> str:
    root = getattr(root, "root", root)
    root = getattr(root, "certificate", root)
    return keys.certificate_pem(root) if isinstance(root, x509.Certificate) else root


def _value(value: Any) -> str:
    return _time(value) if isinstance(value, datetime) else _text(str(value))


def _time(value: datetime) -> str:
    return value.isoformat()


def _text(value: str) -> str:
    return json.dumps(value)


def _texts(values: Sequence[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"
