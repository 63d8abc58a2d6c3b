"""Machines become hosts: an administrator invites, the machine enrols once with a key it made, an administrator ends it.

invite   name, class, zone, labels: an administrator's words; a token `mrg_enroll_…`, kept as its SHA-256
enrol    the token and a request signed with the new key; class and zone come from the invitation alone
revoke   the host is refused from the next request on; its name can be invited again, its key never
"""

import re
import uuid
from dataclasses import replace
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from modelreg import host_signing
from modelreg.errors import Conflict, Invalid, NotFound, Unauthenticated
from modelreg_server import custody
from modelreg_server.access import HostFacts
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.identity import hosts, tokens
from modelreg_server.identity.hosts import Received
from modelreg_server.tables import Host, HostInvitation

TOKEN = re.compile(r"mrg_enroll_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", re.ASCII)


def invite(
    session: Session,
    actor: Actor,
    facts: HostFacts,
    *,
    labels: dict[str, str],
    lifetime: timedelta,
    now: datetime,
) -> tuple[str, HostInvitation]:
    """Invite a machine inside the caller's transaction; returns the token's text, which is not kept, and the row.

    An earlier invitation of the same name that is still open is withdrawn.

    Raises:
        Conflict: a host of this name is enrolled.
    """
    custody.hold(session)  # one invitation of a name at a time
    if _living(session, facts.name) is not None:
        raise Conflict(f"a host {facts.name} is enrolled; `modelreg host revoke {facts.name}` ends it first")
    for earlier in _open_invitations(session, facts.name):
        earlier.withdrawn_at = now
    text = tokens.new_text("enroll")
    row = HostInvitation(
        id=str(uuid.uuid4()),
        hash=tokens.stored_form(text),
        name=facts.name,
        host_class=facts.host_class.value,
        zone=facts.zone,
        labels=labels,
        created_at=now,
        created_by=actor.principal,
        expires_at=now + lifetime,
    )
    session.add(row)
    detail = {"invitation": row.id, **_described(row), "expires_at": row.expires_at.isoformat()}
    custody.append(session, actor, Event(EventType.HOST_INVITED, detail=detail), now)
    return text, row


def invitation_of(session: Session, untrusted_token: str | None, now: datetime) -> HostInvitation:
    """The invitation of an enrolment token. A used one is found too: the answer to its first use may be lost.

    Raises:
        Unauthenticated: malformed, unknown, expired or withdrawn; the reason is the same for all.
    """
    row = None
    if untrusted_token is not None and TOKEN.fullmatch(untrusted_token):
        stored = tokens.stored_form(untrusted_token)
        row = session.exec(select(HostInvitation).where(HostInvitation.hash == stored)).one_or_none()
    if row is None or row.withdrawn_at is not None or now >= row.expires_at:
        raise _refused()
    return row


def enrol(
    session: Session, actor: Actor, received: Received, public_der: bytes, invitation_id: str, now: datetime
) -> Host:
    """Make the host inside the caller's transaction. The same key again gives the same answer; another key is refused.

    Args:
        received: the request; its signature proves that the sender holds the key, and binds token, address and time.
        public_der: untrusted.

    Raises:
        Invalid: not an Ed25519 key.
        Unauthenticated: the signature does not hold, or the invitation was used meanwhile.
        Conflict: the key enrolled before, or the name was taken meanwhile.
    """
    key = hosts.load_public_key(public_der)
    if key is None:
        raise Invalid("the public key is not the DER SubjectPublicKeyInfo of an Ed25519 key", field="public_key")
    signature = hosts.signature_of(received)
    if signature is None or received.message.content_digest is None:
        raise host_signing.refusal()
    host_signing.verify(signature, received.message, key, now)
    # The log's lock first, as `invite` and `revoke` take it: one enrolment at a time, and none waits for the other's row.
    custody.hold(session)
    invitation = session.exec(select(HostInvitation).where(HostInvitation.id == invitation_id)).one()
    if invitation.host_id is not None:
        made = session.get_one(Host, invitation.host_id)
        if made.key_id == signature.key_id and made.revoked_at is None:
            return made
        raise _refused()
    if invitation.withdrawn_at is not None:
        raise _refused()
    if session.exec(select(Host).where(Host.key_id == signature.key_id)).one_or_none() is not None:
        raise Conflict("this key enrolled before; make a new one with `modelreg host enroll --replace`")
    if _living(session, invitation.name) is not None:
        raise Conflict(f"a host {invitation.name} is enrolled already; it must be revoked first")
    row = Host(
        id=str(uuid.uuid4()),
        name=invitation.name,
        host_class=invitation.host_class,
        zone=invitation.zone,
        labels=invitation.labels,
        public_key=public_der,
        key_id=signature.key_id,
        enrolled_at=now,
        invited_by=invitation.created_by,
    )
    invitation.host_id = row.id
    session.add(row)
    detail = {"id": row.id, **_described(row), "key": row.key_id, "invitation": invitation.id}
    known = replace(actor, host=hosts.facts_of(row))
    custody.append(session, known, Event(EventType.HOST_ENROLLED, detail=detail), now)
    session.flush()
    return row


def revoke(session: Session, actor: Actor, name: str, now: datetime) -> tuple[Host | None, int]:
    """End a host, and withdraw open invitations of its name, inside the caller's transaction; again changes nothing.

    Returns:
        The host, if one was ever enrolled, and how many invitations were withdrawn.

    Raises:
        NotFound: neither a host nor an open invitation has this name.
    """
    custody.hold(session)
    invitations = _open_invitations(session, name)
    for invitation in invitations:
        invitation.withdrawn_at = now
    row = None if invitations and _living(session, name) is None else host(session, name)
    if row is not None and row.revoked_at is None:
        row.revoked_at, row.revoked_by = now, actor.principal
        described: dict[str, object] = {"id": row.id, **_described(row), "key": row.key_id}
    elif invitations:
        described = {"name": name}
    else:
        return row, 0
    event = Event(EventType.HOST_REVOKED, detail={**described, "withdrawn_invitations": len(invitations)})
    custody.append(session, actor, event, now)
    return row, len(invitations)


def host(session: Session, name: str) -> Host:
    """The host of a name: the living one, else the last.

    Raises:
        NotFound: none was ever enrolled.
    """
    query = select(Host).where(Host.name == name)
    row = _living(session, name) or session.exec(query.order_by(col(Host.enrolled_at).desc())).first()
    if row is None:
        raise NotFound(f"there is no host {name[:100]}; `modelreg host list` shows them")
    return row


def every_host(session: Session) -> list[Host]:
    """All hosts, newest first, ended ones too."""
    return list(session.exec(select(Host).order_by(col(Host.enrolled_at).desc())))


def open_invitations(session: Session, now: datetime) -> list[HostInvitation]:
    """Invitations that a machine could still use, newest first."""
    return [row for row in _open_invitations(session, None) if now < row.expires_at]


def _living(session: Session, name: str) -> Host | None:
    return session.exec(select(Host).where(Host.name == name, col(Host.revoked_at).is_(None))).one_or_none()


def _open_invitations(session: Session, name: str | None) -> list[HostInvitation]:
    query = select(HostInvitation).where(
        col(HostInvitation.host_id).is_(None), col(HostInvitation.withdrawn_at).is_(None)
    )
    query = query if name is None else query.where(HostInvitation.name == name)
    return list(session.exec(query.order_by(col(HostInvitation.created_at).desc())))


def _described(row: Host | HostInvitation) -> dict[str, object]:
    return {"name": row.name, "class": row.host_class, "zone": row.zone, "labels": row.labels}


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "the enrolment token is malformed, unknown, used, withdrawn or expired; ask for a new `modelreg host invite`"
    )
