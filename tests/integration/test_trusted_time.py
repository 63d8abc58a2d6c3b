"""A signer is stolen; certificates expire; time-stamping authorities lie. Real registry, real CLI, its clock set by the test."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from modelreg import bundles, pki, push, stamping, timestamps, trust, verification, verify
from modelreg.cache import Cache
from modelreg.digests import Digest
from modelreg.errors import NotFound, Revoked, SignatureInvalid, StaleTrust
from modelreg.references import parse_reference
from modelreg.trust import key_id_of
from support import keys, stamps
from support.registry import QUIET, SIGNER, Trust, cli, running_registry

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


class Clock:
    """What the registry takes for now."""

    def __init__(self, at=None):
        self.at = at

    def __call__(self):
        return self.at or datetime.now(UTC)


class House:
    """A registry whose PKI is 120 days old, and people who run the CLI at the real time."""

    def __init__(self, folder, registry, clock):
        self.folder, self.registry, self.clock = folder, registry, clock
        self.artifacts = {}

    def cli(self, *arguments, home="user", expect=0, **changes):
        env = self.registry.environment(self.folder / home)
        done = cli(*arguments, env={**env, **changes})
        assert expect in {None, done.returncode}, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def push(self, name, *arguments, at=None, expect=0, **changes):
        """Push `demo/<name>` with the registry's clock at `at`; the content is the name."""
        model = self.folder / "models" / name
        if not model.exists():
            model.mkdir(parents=True)
            (model / "weights.bin").write_bytes(name.encode())
        self.clock.at = at
        done = self.cli("push", model, f"demo/{name}", "--json", *arguments, expect=expect, **changes)
        self.clock.at = None
        if expect == 0:
            self.artifacts[name] = json.loads(done.stdout)["artifact"]
        return done

    def bundles(self, name):
        detail = self.registry.api().artifact(f"demo/{name}", Digest.parse(self.artifacts[name]))
        return [signature.bundle.encode() for signature in detail.signatures]

    def pull(self, name, **more):
        return self.cli("pull", f"demo/{name}@{self.artifacts[name]}", "--json", **more)

    def verify_offline(self, name, **more):
        """With the address of nobody and no token: only what is on this machine."""
        nobody = {"MODELREG_REGISTRY": "http://127.0.0.1:9", "MODELREG_TOKEN": ""}
        return self.cli("verify", f"demo/{name}@{self.artifacts[name]}", "--json", **nobody, **more)

    def rewrite_policy(self, change):
        path = self.registry.trust.policy_path
        text = path.read_text()
        version = trust.parse(text.encode()).version
        path.write_text(change(text).replace(f"version = {version}\n", f"version = {version + 1}\n"))
        trust.parse(path.read_bytes())

    def revoke(self, entry, *, updated_at=None, max_age_seconds=3600):
        head = f"updated_at = {(updated_at or datetime.now(UTC)).isoformat()}\nmax_age_seconds = {max_age_seconds}\n"
        body = f"[revocations]\n{head}artifacts = []\nsigners = [{entry}]\n"
        self.rewrite_policy(lambda text: text[: text.index("[revocations]")] + body)


@pytest.fixture
def house(tmp_path):
    clock = Clock()
    trusted = Trust(tmp_path / "trust", made_at=NOW - 120 * DAY, leaf_days=200)
    with running_registry(tmp_path / "registry", clock=clock, trusted=trusted) as registry:
        yield House(tmp_path, registry, clock)


@pytest.fixture
def expiring(tmp_path):
    """As `house`, but the signer's certificate ended 30 days ago."""
    clock = Clock()
    trusted = Trust(tmp_path / "trust", made_at=NOW - 120 * DAY, leaf_days=90)
    with running_registry(tmp_path / "registry", clock=clock, trusted=trusted) as registry:
        yield House(tmp_path, registry, clock)


@pytest.mark.parametrize("named_by", ["identity", "key"])
def test_a_signer_stolen_between_t1_and_t2(house, named_by):
    """Acceptance 5 of issue 3."""
    stolen = NOW - 50 * DAY
    house.push("honest", at=stolen - DAY)
    house.push("unprovable", "--no-timestamp", at=stolen - DAY)
    # The thief has the key; nobody knows yet, so the registry publishes and stamps what they sign.
    house.push("thiefs", at=stolen + DAY)
    for name in house.artifacts:
        assert json.loads(house.pull(name).stdout)["verified"] is True
        house.verify_offline(name)

    # The theft is found out: the new trust policy reaches the machines.
    key = key_id_of(house.registry.trust.leaf.certificate.public_key())
    who = f'identity = "{SIGNER}"' if named_by == "identity" else f'key = "{key}"'
    house.revoke(f"{{{who}, from = {stolen.isoformat()}}}")

    good = json.loads(house.pull("honest", home="another").stdout)
    assert good["signer"]["signed_at"].startswith(f"{stolen - DAY:%Y-%m-%d}")
    house.verify_offline("honest")
    for name in ("thiefs", "unprovable"):
        assert "revoked" in house.pull(name, home="another", expect=21).stderr
        assert "revoked" in house.verify_offline(name, expect=21).stderr
        house.cli("launch", f"demo/{name}", "--", "echo", "{model}", expect=21)
    assert "nothing proves that this one is older" in house.verify_offline("unprovable", expect=21).stderr

    # The thief cannot publish any more, whether with a stamp or without one.
    house.push("more", expect=21)
    house.push("yet-more", "--no-timestamp", expect=21)
    # Nor take the stamp of an honest signature, nor get one of today for an old time.
    honest, thiefs = bundles.parse(house.bundles("honest")[0]), house.bundles("thiefs")[0]
    for borrowed in (honest.timestamps, (*honest.timestamps, *bundles.parse(thiefs).timestamps)):
        with pytest.raises(SignatureInvalid, match="over another signature"):
            verification.verify_statement(
                _with(thiefs, borrowed),
                policy=house.registry.trust.policy,
                repository="demo/thiefs",
                now=datetime.now(UTC),
            )
    late = stamping.stamp(
        bundles.parse(thiefs).signature,
        house.registry.api().time_stamp,
        house.registry.trust.policy.time_authorities,
        lambda: datetime.now(UTC),
    )
    with pytest.raises(Revoked):
        verification.verify_statement(
            _with(thiefs, (late,)), policy=house.registry.trust.policy, repository="demo/thiefs", now=datetime.now(UTC)
        )


def plan(house, who, *more):
    """What `trust revoke signer WHO --plan` would withdraw: the time it shows, by artifact."""
    done = house.cli("trust", "revoke", "signer", who, *more, "--plan", "--json", expect=None)
    rows = json.loads(done.stdout)["withdraws"]
    assert done.returncode == (40 if rows else 0)
    names = {artifact: name for name, artifact in house.artifacts.items()}
    return {names[row["artifact"]]: row["signed_at"] for row in rows}


def test_a_plan_spares_what_a_stamp_proves_older_and_lists_what_nothing_does(house):
    stolen = NOW - 50 * DAY
    house.push("honest", at=stolen - DAY)
    house.push("unprovable", "--no-timestamp", at=stolen - DAY)
    house.push("thiefs", at=stolen + DAY)
    since = ("--from", stolen.isoformat())

    planned = plan(house, SIGNER, *since)
    assert planned.keys() == {"unprovable", "thiefs"}
    assert planned["unprovable"] == "unprovable"
    assert planned["thiefs"].startswith(f"{stolen + DAY:%Y-%m-%d}")
    assert plan(house, SIGNER).keys() == {"honest", "unprovable", "thiefs"}
    # To the second: a stamp and its accuracy, and `from` itself is revoked.
    at = datetime.fromisoformat(plan(house, SIGNER)["honest"])
    assert "honest" in plan(house, SIGNER, "--from", at.isoformat())
    assert "honest" not in plan(house, SIGNER, "--from", (at + timedelta(seconds=1)).isoformat())

    # And it is what happens.
    house.revoke(f'{{identity = "{SIGNER}", from = {stolen.isoformat()}}}')
    refused = {name for name in house.artifacts if house.pull(name, expect=None).returncode == 21}
    assert refused == planned.keys()


def test_a_plan_knows_every_name_and_every_issuer_of_a_signer(house):
    house.push("m")
    trusted = house.registry.trust
    for who in (
        f"subject:{trusted.leaf.certificate.subject.rfc4514_string()}",
        key_id_of(trusted.leaf.certificate.public_key()),
        key_id_of(trusted.intermediate.certificate.public_key()),
        key_id_of(trusted.root.certificate.public_key()),
        f"sha256:{trusted.root.certificate.fingerprint(hashes.SHA256()).hex()}",
    ):
        assert plan(house, str(who)).keys() == {"m"}, who
    assert plan(house, f"sha256:{'0' * 64}") == plan(house, "subject:CN=somebody") == {}


def test_a_plan_for_a_time_stamping_authority_spares_nothing_for_its_own_stamps(house):
    """Its revocation has no `from`: who holds the key sets the clock back."""
    house.push("stamped", at=NOW - 60 * DAY)
    house.push("bare", "--no-timestamp")
    tsa = x509.load_pem_x509_certificates(house.registry.trust.tsa_chain_path.read_bytes())[0]
    for who in (key_id_of(tsa.public_key()), f"sha256:{tsa.fingerprint(hashes.SHA256()).hex()}"):
        assert plan(house, str(who), "--from", NOW.isoformat()) == {"stamped": "unprovable"}


def _with(raw, taken):
    return bundles.serialise(replace(bundles.parse(raw), timestamps=tuple(taken)))


def test_offline_clients_obey_the_list_until_it_is_too_old(house):
    house.push("honest", at=NOW - 60 * DAY)
    house.push("thiefs", at=NOW - 40 * DAY)
    for name in house.artifacts:
        house.pull(name)
    entry = f'{{identity = "{SIGNER}", from = {(NOW - 50 * DAY).isoformat()}}}'
    house.revoke(entry, updated_at=datetime.now(UTC) - timedelta(minutes=59))
    house.verify_offline("honest")
    house.verify_offline("thiefs", expect=21)

    # No newer list comes in, and time goes by.
    cache, policy = Cache(house.folder / "user" / ".cache" / "modelreg"), house.registry.trust.policy
    arguments = (cache, Digest.parse(house.artifacts["honest"]), policy)
    edge = policy.revocations.updated_at + timedelta(hours=1)
    assert verify.verify_kept(*arguments, repository="demo/honest", now=edge)
    with pytest.raises(StaleTrust):
        verify.verify_kept(*arguments, repository="demo/honest", now=edge + timedelta(seconds=1))
    house.revoke(entry, updated_at=datetime.now(UTC) - timedelta(minutes=61))
    for name in house.artifacts:
        assert "fetch a newer trust policy" in house.verify_offline(name, expect=14).stderr
        house.pull(name, home="another", expect=14)


def test_an_expired_leaf_with_a_good_stamp_verifies_and_without_one_refuses(expiring):
    expiring.push("stamped", at=NOW - 60 * DAY)
    expiring.push("bare", "--no-timestamp", at=NOW - 60 * DAY)

    expiring.pull("stamped")
    expiring.verify_offline("stamped")
    assert "push again" in expiring.pull("bare", expect=13).stderr
    # Today's clock: the certificate is over, stamp or not.
    expiring.push("late", expect=13)


def test_a_second_push_with_a_stamp_gives_the_old_signature_a_time(house):
    house.push("m", "--no-timestamp")
    assert [len(bundles.parse(raw).timestamps) for raw in house.bundles("m")] == [0]

    house.push("m")
    (replaced,) = house.bundles("m")
    assert len(bundles.parse(replaced).timestamps) == 1
    # And not back: a bundle without a time does not replace one that has it, nor a later time an earlier one.
    house.push("m", "--no-timestamp")
    house.push("m")
    assert house.bundles("m") == [replaced]
    types = [event.type for event in house.registry.whole_log() if event.repository == "demo/m"]
    assert (types.count("artifact.published"), types.count("artifact.signed")) == (1, 1)


def test_a_bundle_that_does_not_hold_any_more_gives_way_to_one_by_the_same_key(expiring, monkeypatch):
    """A key in a token stays; its certificate ends and is renewed. The messages say: push again."""
    expiring.push("m", "--no-timestamp", at=NOW - 60 * DAY)
    trusted = expiring.registry.trust
    with monkeypatch.context() as patched:
        patched.setattr(pki.ec, "generate_private_key", lambda _curve: trusted.leaf.private_key)
        renewed = pki.issue_signer(SIGNER, trusted.intermediate, datetime.now(UTC), 10)
    assert renewed.certificate.public_key() == trusted.leaf.certificate.public_key()
    issuer = pki.certificate_pem(trusted.intermediate.certificate)
    trusted.chain_path.write_bytes(pki.certificate_pem(renewed.certificate) + issuer)
    expiring.pull("m", expect=13)

    expiring.push("m", "--no-timestamp")
    expiring.pull("m")
    (held,) = expiring.bundles("m")
    expiring.push("m", "--no-timestamp")
    assert expiring.bundles("m") == [held]


def test_a_stamp_of_a_revoked_authority_gives_way_to_one_that_is_believed(house, openssl_tsa):
    pin(house, openssl_tsa)
    house.push("m")
    tsa = x509.load_pem_x509_certificates(house.registry.trust.tsa_chain_path.read_bytes())[0]
    house.rewrite_policy(lambda text: text.replace("usage =", "require_timestamp = true\nusage =", 1))
    house.revoke(f'{{key = "{key_id_of(tsa.public_key())}"}}')
    assert "none that is believed; push again" in house.pull("m", expect=13).stderr

    with openssl_tsa.serving() as url:
        house.push("m", "--timestamp-url", url)
    house.pull("m")


def test_a_policy_may_demand_a_stamp(house):
    house.rewrite_policy(lambda text: text.replace("usage =", "require_timestamp = true\nusage ="))

    house.push("m")
    house.pull("m")
    assert "demands a time stamp" in house.push("bare", "--no-timestamp", expect=13).stderr


def test_the_registry_without_an_authority_leaves_the_stamp_out_and_says_so(tmp_path):
    with running_registry(tmp_path / "registry", tsa=False) as registry:
        house = House(tmp_path, registry, Clock())
        done = house.push("m")
        assert "runs no time-stamping authority" in done.stderr
        assert bundles.parse(house.bundles("m")[0]).timestamps == ()
        house.pull("m")


def test_without_a_time_authority_to_verify_with_no_stamp_is_asked_for(house):
    def without_times(text):
        start = text.index("# Who may say when")
        text = text[:start] + text[text.index("[[rules]]") :]
        return text.replace('timestamps = ["registry-tsa"]\n', "")

    house.rewrite_policy(without_times)

    assert "pins no time authority" in house.push("m").stderr
    assert bundles.parse(house.bundles("m")[0]).timestamps == ()
    assert "time authority" in house.push("n", "--timestamp-url", "http://127.0.0.1:9/", expect=1).stderr


def test_the_key_method_takes_stamps_too(house, tmp_path):
    signer = keys.make_key()
    (tmp_path / "ops.pem").write_bytes(stamps.pki.private_pem(signer.private_key))
    pem = keys.public_pem(signer)
    ended = (NOW - 30 * DAY).isoformat()
    authority = (
        f'[authorities.ops]\nmethod = "key"\ntimestamps = ["registry-tsa"]\n'
        f"keys = [{{name = \"a\", pem = '''{pem}''', not_after = {ended}}}]\n\n"
    )

    def with_key(text):
        text = text.replace("[[rules]]", authority + "[[rules]]")
        return text.replace("allow = [", 'allow = [{authority = "ops", identities = ["key:a"]}, ')

    house.rewrite_policy(with_key)
    env = {"MODELREG_KEY": str(tmp_path / "ops.pem"), "MODELREG_CERTIFICATE": ""}
    house.push("by-key", at=NOW - 60 * DAY, **env)
    house.push("by-key-late", at=NOW - 20 * DAY, expect=13, **env)

    assert json.loads(house.pull("by-key").stdout)["signer"]["identity"] == "key:a"


# Another authority than the registry's


def pin(house, tsa):
    house.rewrite_policy(
        lambda text: text.replace(
            "[[rules]]", f"[time_authorities.other]\nroots = ['''{tsa.root_pem}''']\n\n[[rules]]"
        ).replace('timestamps = ["registry-tsa"]', 'timestamps = ["registry-tsa", "other"]')
    )


def test_a_push_may_ask_an_authority_of_others(house, openssl_tsa):
    pin(house, openssl_tsa)
    with openssl_tsa.serving() as url:
        house.push("m", "--timestamp-url", url)
        house.push("n", MODELREG_TIMESTAMP_URL=url)

    for name in ("m", "n"):
        (stamped,) = bundles.parse(house.bundles(name)[0]).timestamps
        signature = bundles.parse(house.bundles(name)[0]).signature
        policy = house.registry.trust.policy
        found = timestamps.prove(stamped, signature, policy.time_authorities, datetime.now(UTC))
        assert found.authority == "other"
        house.pull(name)


def test_a_lying_authority_or_who_sits_before_it_is_found_out_before_anything_is_pushed(house, openssl_tsa):
    pin(house, openssl_tsa)
    replayed = []

    def replay(raw):
        replayed.append(raw)
        return replayed[0]

    with openssl_tsa.serving(replay) as url:
        house.push("first", "--timestamp-url", url)
        assert "nonce" in house.push("second", "--timestamp-url", url, expect=13).stderr
    for change, match in (
        (lambda _: b"", "malformed"),
        (lambda raw: raw[:-1], "malformed"),
        (lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], "time stamp"),
        (lambda raw: raw + b"\0" * 70_000, "answered 200 with"),
    ):
        with openssl_tsa.serving(change) as url:
            done = house.push("second", "--timestamp-url", url, expect=31 if "answered" in match else 13)
            assert match in done.stderr
    with openssl_tsa.serving(status=404) as url:
        assert "answered 404" in house.push("second", "--timestamp-url", url, expect=31).stderr
    with pytest.raises(NotFound):
        house.registry.api().resolve("demo/second", "latest")


def test_a_stamp_of_an_authority_the_policy_does_not_know_is_not_pushed(house, openssl_tsa):
    with openssl_tsa.serving() as url:
        assert "none of the time authorities" in house.push("m", "--timestamp-url", url, expect=13).stderr


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "https://user:secret@host/", "http://x y/", "nonsense"])
def test_a_url_that_is_none_is_refused(house, url):
    done = house.push("m", "--timestamp-url", url, expect=1)

    assert "timestamp_url" in done.stderr
    assert "secret" not in done.stderr


# The commands that set it up


def test_trust_issue_tsa_makes_what_the_server_runs_and_the_policy_of_init_believes(tmp_path):
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    folder = tmp_path / "pki"

    def run(*arguments, expect=0):
        done = cli(*arguments, env=env)
        assert done.returncode == expect, done.stderr
        return done

    run("trust", "init", folder, "--repository", "demo/*", "--identity", "email:*@demo.example")
    run("trust", "issue", folder, SIGNER)
    told = run("trust", "issue-tsa", folder, "--json")
    assert json.loads(told.stdout)["key"] == str(folder / "tsa.key.pem")
    assert (folder / "tsa.key.pem").stat().st_mode & 0o777 == 0o600
    assert "tsa.key.pem exists" in run("trust", "issue-tsa", folder, expect=1).stderr
    shown = run("trust", "show", "--trust-policy", folder / "trust.toml").stdout
    assert "time         registry-tsa: root CN=modelreg root" in shown

    trusted = Trust(tmp_path / "trust")
    shutil.copy(folder / "trust.toml", trusted.policy_path)
    stem = folder / SIGNER.partition(":")[2]
    shutil.copy(f"{stem}.key.pem", trusted.key_path)
    shutil.copy(f"{stem}.chain.pem", trusted.chain_path)
    settings = {"tsa_key": folder / "tsa.key.pem", "tsa_certificate": folder / "tsa.chain.pem"}
    with running_registry(tmp_path / "registry", trusted=trusted, **settings) as registry:
        house = House(tmp_path, registry, Clock())
        house.push("m")
        signer = json.loads(house.pull("m").stdout)["signer"]
    assert signer["signed_at"] is not None


def test_push_as_a_library_takes_any_stamp(house):
    model = house.folder / "lib"
    model.mkdir()
    (model / "x").write_bytes(b"x")
    asked = []

    def stamp(signature):
        asked.append(signature)
        return house.registry.api().time_stamp(timestamps.query(signature).as_bytes())

    pushed = push.push(
        house.registry.api(), model, parse_reference("demo/lib"), house.registry.trust.signer,
        tags=[], connections_at_once=2, meter=QUIET, stamp=stamp,
    )  # fmt: skip

    house.artifacts["lib"] = pushed.published.artifact
    (raw,) = house.bundles("lib")
    assert [bundles.parse(raw).signature] == asked
    assert len(bundles.parse(raw).timestamps) == 1
