"""The registry as a time-stamping authority: what it answers, to whom, and what other implementations make of it."""

import pytest
from asn1crypto import cms, tsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import pki, timestamps
from modelreg.errors import Invalid, Misconfigured
from modelreg.trust import TimeAuthority
from modelreg_server import timestamping
from modelreg_server.app import create_app
from modelreg_server.settings import Settings
from support import keys, stamps
from support.fuzzing import mutations
from support.keys import NOW
from support.registry import running_registry

SIGNATURE = b"what was signed"
CHAIN = keys.make_chain()
TSA = stamps.make_tsa(CHAIN)
HEADERS = {"Content-Type": "application/timestamp-query"}


def query(**members):
    return tsp.TimeStampReq(
        {
            "version": "v1",
            "message_imprint": {
                "hash_algorithm": {"algorithm": "sha256"},
                "hashed_message": stamps.digest(SIGNATURE),
            },
            "nonce": 7,
            "cert_req": True,
            **members,
        }
    ).dump()


def imprint(algorithm, data=None):
    return {
        "message_imprint": {
            "hash_algorithm": {"algorithm": algorithm},
            "hashed_message": stamps.digest(SIGNATURE, algorithm) if data is None else data,
        }
    }


def info_of(reply):
    signed = tsp.TimeStampResp.load(reply, strict=True)["time_stamp_token"]["content"]
    return signed["encap_content_info"]["content"].parsed, signed


# Over HTTP


def test_whoever_may_push_somewhere_gets_a_stamp_by_the_registry_s_clock(registry, http_):
    asked = timestamps.query(SIGNATURE)
    token = registry.token("workload:ci", "push:demo/one")

    answer = http_("POST", "/v1/timestamps", token, body=asked.as_bytes(), headers=HEADERS)

    assert (answer.status, answer.headers["content-type"]) == (200, "application/timestamp-reply")
    timestamps.require_answer(answer.body, asked)
    believed = {"tsa": TimeAuthority((registry.trust.root.certificate,))}
    found = timestamps.prove(answer.body, SIGNATURE, believed, registry.parts.clock())
    assert abs((registry.parts.clock() - found.at).total_seconds()) < 10


def test_a_stamp_is_no_custody_event(registry, http_):
    before = len(registry.whole_log())
    for _ in range(3):
        assert http_("POST", "/v1/timestamps", registry.token(), body=query(), headers=HEADERS).status == 200

    assert {event.type for event in registry.whole_log()[before:]} <= {"token.issued"}


def test_a_stamp_takes_the_right_to_push_somewhere(registry, http_):
    for token, status in ((None, 401), (registry.token("person:r", "pull:*/*", "tag:*/*", "audit:*/*"), 403)):
        assert http_("POST", "/v1/timestamps", token, body=query(), headers=HEADERS).status == status


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", HEADERS, 422),
        (b"garbage", HEADERS, 422),
        (b"{}", {"Content-Type": "application/json"}, 422),
        (query(), {"Content-Type": "application/octet-stream"}, 422),
        (query(), {}, 422),
        (query() + b"x", HEADERS, 422),
        (b"0" * 4097, HEADERS, 413),
        (b"0" * 10_000_000, HEADERS, 413),
    ],
)
def test_a_bad_query_is_a_problem(registry, http_, body, headers, status):
    answer = http_("POST", "/v1/timestamps", registry.token(), body=body, headers=headers)

    assert (answer.status, answer.code) == (status, "too-large" if status == 413 else "invalid")


def test_a_registry_without_an_authority_says_so(tmp_path, http_to):
    with running_registry(tmp_path, tsa=False) as registry:
        answer = http_to(registry.url)("POST", "/v1/timestamps", registry.token(), body=query(), headers=HEADERS)

    assert (answer.status, answer.code) == (404, "not-found")
    assert "MODELREG_TSA_KEY" in answer.json["detail"]


# What it answers


def test_the_reply_has_what_was_asked_and_the_time_of_the_request():
    info, signed = info_of(timestamping.reply(TSA, query(nonce=2**200 + 1), NOW.replace(microsecond=999_999)))

    assert info["nonce"].native == 2**200 + 1
    assert info["gen_time"].native == NOW
    assert info["accuracy"]["seconds"].native == 1
    assert info["policy"].native == TSA.policy
    assert info["message_imprint"]["hashed_message"].native == stamps.digest(SIGNATURE)
    assert len(signed["certificates"]) == 2


def test_certificates_and_nonce_are_there_only_if_asked_for():
    info, signed = info_of(timestamping.reply(TSA, query(cert_req=False, nonce=None), NOW))

    assert info["nonce"].native is None
    assert signed["certificates"].native is None


def test_serial_numbers_do_not_come_twice():
    serials = {info_of(timestamping.reply(TSA, query(), NOW))[0]["serial_number"].native for _ in range(50)}

    assert len(serials) == 50
    assert all(0 <= serial < 2**160 for serial in serials)


@pytest.mark.parametrize("curve", keys.CURVES)
@pytest.mark.parametrize("algorithm", stamps.SHA2)
def test_every_curve_stamps_every_digest(curve, algorithm):
    tsa = stamps.odd_tsa(CHAIN, key=keys.make_key(curve).private_key)
    reply = timestamping.reply(tsa, query(**imprint(algorithm)), NOW)

    assert timestamps.prove(reply, SIGNATURE, {"tsa": TimeAuthority((CHAIN.root.certificate,))}, NOW)


def test_the_certificate_s_own_digest_is_under_the_signature():
    _, signed = info_of(timestamping.reply(TSA, query(), NOW))
    attributes = {item["type"].native: item["values"] for item in signed["signer_infos"][0]["signed_attrs"]}
    (certificate_id,) = attributes["signing_certificate_v2"][0]["certs"]

    assert certificate_id["cert_hash"].native == TSA.chain[0].fingerprint(stamps.hashes.SHA256())
    assert certificate_id["issuer_serial"]["serial_number"].native == TSA.chain[0].serial_number
    assert attributes["content_type"][0].native == "tst_info"


def not_der():
    raw = query()
    return raw[:1] + b"\x81" + raw[1:]  # a length in two bytes where one does


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (query(version=2), "version 1"),
        (query(**imprint("sha1", b"x" * 20)), "sha1 is not stamped here"),
        (query(**imprint("md5", b"x" * 16)), "md5 is not stamped here"),
        (query(**imprint("sha224", b"x" * 28)), "is not stamped here"),
        (query(**imprint("sha256", b"x" * 20)), "is not stamped here"),
        (query(**imprint("sha512", b"x" * 32)), "is not stamped here"),
        (query(**imprint("1.2.3.4", b"x" * 32)), "is not stamped here"),
        (query(req_policy="1.2.3.4.2"), "under the policy 1.2.3.4.1 only"),
        (query(extensions=[{"extn_id": "1.2.3", "critical": False, "extn_value": b"x"}]), "no extension"),
        (query(nonce=-1), "nonce"),
        (query(nonce=2**256), "nonce"),
        (not_der(), "DER"),
        (query() + b"\0", "not an RFC 3161 query"),
        (query()[:-1], "not an RFC 3161 query"),
        (b"", "not an RFC 3161 query"),
        (b"\0" * 4097, "the limit is"),
    ],
)
def test_what_is_no_query_or_asks_for_something_else_is_refused(raw, match):
    with pytest.raises(Invalid, match=match):
        timestamping.reply(TSA, raw, NOW)


def test_the_policy_may_be_named():
    assert timestamping.reply(TSA, query(req_policy=TSA.policy), NOW)


def test_no_mutation_of_a_query_is_a_failure():
    for raw in mutations(query(), 600):
        try:
            reply = timestamping.reply(TSA, raw, NOW)
        except Invalid:
            continue
        assert info_of(reply)[0]["gen_time"].native == NOW


def test_an_authority_whose_certificate_ended_stamps_nothing():
    ended = stamps.odd_tsa(CHAIN, start=NOW - stamps.days(9), end=NOW - stamps.days(1))

    with pytest.raises(Misconfigured, match="ended at"):
        timestamping.reply(ended, query(), NOW)


# Setting it up


@pytest.fixture
def files(tmp_path):
    def write(tsa, key=None):
        (tmp_path / "tsa.key.pem").write_bytes(pki.private_pem(key or tsa.private_key))
        (tmp_path / "tsa.chain.pem").write_bytes(b"".join(map(pki.certificate_pem, tsa.chain)))
        return tmp_path / "tsa.key.pem", tmp_path / "tsa.chain.pem"

    return write


def test_key_and_chain_are_read(files):
    loaded = timestamping.load(*files(TSA), TSA.policy)

    assert (loaded.chain, loaded.policy) == (TSA.chain, TSA.policy)


@pytest.mark.parametrize(
    "odd",
    [
        {"purposes": None},
        {"critical": False},
        {"purposes": [ExtendedKeyUsageOID.CODE_SIGNING]},
        {"purposes": [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]},
    ],
)
def test_a_certificate_nobody_would_believe_is_refused_at_start(files, odd):
    with pytest.raises(Misconfigured, match="not for time stamps alone"):
        timestamping.load(*files(stamps.odd_tsa(CHAIN, **odd)), "1.2.3")


def test_a_key_of_another_certificate_and_missing_files_are_refused_at_start(files, tmp_path):
    with pytest.raises(Misconfigured, match="not the signing key's"):
        timestamping.load(*files(TSA, keys.make_key().private_key), "1.2.3")
    with pytest.raises(Misconfigured, match="No such file"):
        timestamping.load(tmp_path / "none", tmp_path / "none", "1.2.3")


def test_half_a_setting_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="go together"):
        Settings(data_dir=tmp_path, tsa_key=tmp_path / "key")
    with pytest.raises(ValueError, match="tsa_policy"):
        Settings(data_dir=tmp_path, tsa_policy="not an oid")


def test_the_server_does_not_start_with_a_wrong_authority(own_registry, files):
    key, chain = files(stamps.odd_tsa(CHAIN, purposes=None))
    settings = own_registry.parts.settings.model_copy(update={"tsa_key": key, "tsa_certificate": chain})

    with pytest.raises(Misconfigured, match="not for time stamps alone"):
        create_app(settings)


# The openssl command as an oracle


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_openssl_asks_and_accepts_what_we_answer(openssl, tmp_path, digest):
    (tmp_path / "root.pem").write_text(CHAIN.root_pem)
    (tmp_path / "data").write_bytes(SIGNATURE)
    openssl("ts", "-query", "-data", tmp_path / "data", f"-{digest}", "-cert", "-out", tmp_path / "q.tsq")
    reply = timestamping.reply(TSA, (tmp_path / "q.tsq").read_bytes(), NOW)
    (tmp_path / "r.tsr").write_bytes(reply)

    at = int(NOW.timestamp())
    for known in (("-data", tmp_path / "data"), ("-queryfile", tmp_path / "q.tsq")):
        told = openssl(
            "ts", "-verify", "-in", tmp_path / "r.tsr", *known, "-CAfile", tmp_path / "root.pem", "-attime", at
        )
        assert "Verification: OK" in told
    (tmp_path / "data").write_bytes(b"something else")
    openssl(
        "ts", "-verify", "-in", tmp_path / "r.tsr", "-data", tmp_path / "data", "-CAfile", tmp_path / "root.pem",
        "-attime", at, expect=1,
    )  # fmt: skip


def test_openssl_refuses_a_reply_whose_certificate_was_swapped(openssl, tmp_path):
    # ESSCertIDv2: the same key under another certificate of the same authority.
    leaf = pki.issue_tsa("tsa", CHAIN.intermediate, NOW)
    (tmp_path / "root.pem").write_text(CHAIN.root_pem)
    (tmp_path / "data").write_bytes(SIGNATURE)
    raw = timestamping.reply(TSA, query(), NOW)
    signed = tsp.TimeStampResp.load(raw)["time_stamp_token"]["content"].copy()
    signed["certificates"] = [cms.Certificate.load(leaf.certificate.public_bytes(stamps.DER))]
    (tmp_path / "r.tsr").write_bytes(stamps.response(signed))

    openssl(
        "ts", "-verify", "-in", tmp_path / "r.tsr", "-data", tmp_path / "data", "-CAfile", tmp_path / "root.pem",
        "-attime", int(NOW.timestamp()), expect=1,
    )  # fmt: skip


def test_we_accept_what_openssl_answers(openssl_tsa):
    asked = timestamps.query(SIGNATURE)
    reply = openssl_tsa.reply(asked.as_bytes())
    now = openssl_tsa.now()

    timestamps.require_answer(reply, asked)
    found = timestamps.prove(reply, SIGNATURE, {"other": TimeAuthority((openssl_tsa.root,))}, now)
    assert abs((now - found.at).total_seconds()) < 60
    with pytest.raises(Exception, match="another signature"):
        timestamps.prove(reply, b"other", {"other": TimeAuthority((openssl_tsa.root,))}, now)
