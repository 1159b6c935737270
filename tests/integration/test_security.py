"""Access control on real servers: TLS, tokens, scopes, limits and roots.

The three services run behind mTLS and tokens; a fourth server has only TLS, and its certificate changes.
"""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from extra_cli import probing
from extra_client import (
    Credentials,
    FailedPreconditionError,
    GenerationClient,
    InvalidArgumentError,
    NamespaceClient,
    NoveltyClient,
    OverloadedError,
    PermissionDeniedError,
    PrefixClient,
    UnauthenticatedError,
    UnavailableError,
    VerificationClient,
    aio,
    credentials,
    embedded,
)
from extra_rl.config_file import ConfigError
from extra_rl.v1 import generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2
from extra_services.errors import InvalidInput
from extra_services.generation import weights
from extra_services.runtime import tokens
from extra_services.runtime.access import REQUIRED_SCOPES
from extra_services.runtime.settings import load
from extra_services.runtime.tls import Certificates
from extra_services.runtime.tokens import SCOPES
from extra_services.verification.main import VerificationSettings
from extra_trainer.config import CredentialsConfig
from extra_trainer.rollouts.generation_pool import GenerationPool
from support.certificates import Authority, Issued
from support.generation_models import make_model
from support.token_files import write_tokens

CODE = grpc.StatusCode
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in (generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SERVERS = {
    "GenerationService": "generation",
    "NamespaceService": "novelty",
    "NoveltyService": "novelty",
    "PrefixService": "novelty",
    "VerificationService": "verification",
}
#: Who has a token, and for what.
SCOPES_OF = {
    "all": {"*": "admin"},
    "read": {"run-*": "read", "@*": "read"},
    "write": {"run-*": "write", "@*": "write"},
    "admin": {"run-*": "admin", "@*": "admin"},
    "elsewhere": {"other-*": "admin"},
    "slow": {"*": "read"},
}


@dataclass
class Suite:
    """The three services behind mTLS and tokens."""

    services: dict[str, embedded.EmbeddedService]
    authority: Authority
    client: Issued
    secrets: dict[str, str]
    folder: Path

    def target(self, service: str) -> str:
        return self.services[service].target

    def credentials(self, who: str = "all") -> Credentials:
        return Credentials(
            token=self.secrets[who],
            ca=self.authority.file,
            certificate=self.client.certificate,
            key=self.client.key,
        )

    def channel(self, service: str, shown: Issued | None = None) -> grpc.Channel:
        shown = shown or self.client
        tls = grpc.ssl_channel_credentials(
            self.authority.file.read_bytes(), shown.key.read_bytes(), shown.certificate.read_bytes()
        )
        return grpc.secure_channel(self.target(service), tls)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def suite(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "weights").mkdir()
    make_model(folder / "weights" / "next", seed=1)
    minted = {who: tokens.mint() for who in SCOPES_OF}
    entries: list[dict[str, Any]] = [
        {"name": who, "sha256": digest, "scopes": SCOPES_OF[who]} for who, (_, digest) in minted.items()
    ]
    entries[-1]["requests_per_second"] = 0.01
    certificate = authority.issue("server")
    common: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "tls_certificate": certificate.certificate,
        "tls_key": certificate.key,
        "tls_client_ca": authority.file,
        "tokens": entries,
    }
    settings: dict[str, dict[str, Any]] = {
        "generation": {
            "model": make_model(folder / "model"),
            "weights_root": folder / "weights",
            "threads": 1,
        },
        "novelty": {"embedder": "none", "threads": 1},
        "verification": {"workers": 1, "slow_workers": 0},
    }
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        starting = {
            name: pool.submit(
                embedded.start, name, folder / f"{name}.log", log_level="debug", **common, **settings[name]
            )
            for name in settings
        }
        services = {name: future.result() for name, future in starting.items()}
        for service in services.values():
            stack.callback(service.stop)
        secrets = {who: secret for who, (secret, _) in minted.items()}
        yield Suite(services, authority, authority.issue("client"), secrets, folder)


def _code(channel: grpc.Channel, path: str, request: bytes, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """Return the status code of a call of `path` with `request`."""
    method = METHODS[path]
    shape = [
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    ]
    call: Any = getattr(channel, "_".join(shape))(path)
    answer = call(iter([request]) if method.client_streaming else request, timeout=30, metadata=metadata)
    try:
        list(answer) if method.server_streaming else answer
    except grpc.RpcError as error:
        return error.code()
    return CODE.OK


def _codes(suite: Suite, request: bytes, *metadata: tuple[str, str]) -> dict[str, grpc.StatusCode]:
    """Return the status code of a call of every RPC."""
    ends = {}
    with ExitStack() as stack:
        channels = {name: stack.enter_context(suite.channel(name)) for name in suite.services}
        for path in METHODS:
            channel = channels[SERVERS[path.split("/")[1].rpartition(".")[2]]]
            # The stubs of grpc raise where a unary call fails at once.
            try:
                ends[path] = _code(channel, path, request, *metadata)
            except grpc.RpcError as error:
                ends[path] = error.code()
    return ends


def _bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def test_every_rpc_declares_the_scope_it_needs() -> None:
    assert set(REQUIRED_SCOPES) == set(METHODS)
    for path, needs in REQUIRED_SCOPES.items():
        named = {field.name for field in METHODS[path].input_type.fields} & {
            "namespace",
            "source",
            "destination",
        }
        assert {need.field for need in needs if need.field} == named, path
        assert all(bool(need.field) != bool(need.namespace) for need in needs), path


def test_no_rpc_is_served_without_a_known_token(suite: Suite) -> None:
    unknown, _ = tokens.mint()
    known = suite.secrets["all"]
    for metadata in (
        (),
        (_bearer(unknown),),
        (_bearer(known[:-1]),),
        (("authorization", known),),
        (("authorization", f"Basic {known}"),),
        (_bearer(known), _bearer(known)),
    ):
        ends = _codes(suite, b"", *metadata)
        assert set(ends.values()) == {CODE.UNAUTHENTICATED}, (metadata and metadata[0][0], ends)


def test_health_is_open_and_what_else_a_server_tells_of_itself_wants_a_token(suite: Suite) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    channels = channelz_pb2.GetTopChannelsRequest()
    for name in suite.services:
        with suite.channel(name) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            look = channelz_pb2_grpc.ChannelzStub(channel).GetTopChannels
            for call in (lambda: list(reflect(iter([asked]))), lambda: look(channels)):  # noqa: B023
                with pytest.raises(grpc.RpcError) as refused:
                    call()
                assert refused.value.code() is CODE.UNAUTHENTICATED
            bearer = [_bearer(suite.secrets["elsewhere"])]
            (listed,) = reflect(iter([asked]), metadata=bearer)
            assert "extra_rl.v1." in str(listed)
            look(channels, metadata=bearer)


@pytest.mark.parametrize("who", ["all", *SCOPES, "elsewhere"])
def test_a_token_opens_the_rpcs_of_its_scope_and_no_others(suite: Suite, who: str) -> None:
    # Fields 1 and 2 as text: a namespace, and CopyNamespace's destination.
    sound = {
        path: GetMessageClass(method.input_type)(
            **{
                field.name: "run-1"
                for field in method.input_type.fields
                if field.name in ("namespace", "source")
            },
            **({"destination": "run-2"} if method.name == "CopyNamespace" else {}),
        )
        for path, method in METHODS.items()
    }
    for path, request in sound.items():
        service = SERVERS[path.split("/")[1].rpartition(".")[2]]
        with suite.channel(service) as channel:
            try:
                end = _code(channel, path, request.SerializeToString(), _bearer(suite.secrets[who]))
            except grpc.RpcError as error:
                end = error.code()
        level = {"all": 2, "elsewhere": -1}.get(who, SCOPES.index(who) if who in SCOPES else -1)
        allowed = all(SCOPES.index(need.scope) <= level for need in REQUIRED_SCOPES[path])
        assert (end is not CODE.PERMISSION_DENIED) == allowed, (path, end)
        assert end is not CODE.UNAUTHENTICATED


def test_a_token_reaches_no_namespace_outside_its_patterns(suite: Suite) -> None:
    vectors = np.eye(2, 4, dtype=np.float32)
    target = suite.target("novelty")
    with (
        NoveltyClient(target, "run-mine", credentials=suite.credentials("admin")) as mine,
        NoveltyClient(target, "other-1", credentials=suite.credentials("elsewhere")) as theirs,
        NoveltyClient(target, "other-1", credentials=suite.credentials("admin")) as trespassing,
        NoveltyClient(target, "run-mine", credentials=suite.credentials("read")) as reading,
        NamespaceClient(target, "run-mine", credentials=suite.credentials("admin")) as my_namespace,
        NamespaceClient(target, "other-1", credentials=suite.credentials("elsewhere")) as their_namespace,
        NamespaceClient(target, "other-1", credentials=suite.credentials("admin")) as trespassed,
        NamespaceClient(target, "run-mine", credentials=suite.credentials("read")) as read_only,
    ):
        for client in (mine, theirs):
            client.score("p", embeddings=vectors, correct=[True, True])
        for attempt in (
            lambda: trespassing.score("p", embeddings=vectors, correct=[True, True]),
            lambda: trespassed.delete(),
            lambda: trespassed.describe(),
            lambda: trespassed.copy_to("run-stolen"),
            lambda: my_namespace.copy_to("other-1", replace=True),
            lambda: reading.score("p", embeddings=vectors, correct=[True, True]),
        ):
            with pytest.raises(PermissionDeniedError, match="has no scope"):
                attempt()
        assert their_namespace.describe().solutions == 2
        # Reading an existing namespace needs no right to create it.
        assert read_only.describe().solutions == 2


def test_a_stream_is_judged_by_its_first_message(suite: Suite, tmp_path: Path) -> None:
    target = suite.target("novelty")
    with NoveltyClient(target, "run-file", credentials=suite.credentials("admin")) as mine:
        mine.score("p", embeddings=np.eye(2, 4, dtype=np.float32), correct=[True, True])
    with NamespaceClient(target, "run-file", credentials=suite.credentials("admin")) as mine:
        mine.export_to(tmp_path / "file")
        mine.import_from(tmp_path / "file", replace=True)
    with (
        NamespaceClient(target, "other-2", credentials=suite.credentials("admin")) as trespassing,
        pytest.raises(PermissionDeniedError),
    ):
        trespassing.import_from(tmp_path / "file")


def test_a_malformed_message_is_an_invalid_argument_of_every_rpc(suite: Suite) -> None:
    ends = _codes(suite, b"\xff\xff\xff\x00\x07", _bearer(suite.secrets["all"]))
    assert set(ends.values()) == {CODE.INVALID_ARGUMENT}, ends
    with suite.channel("verification") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/extra_rl.v1.VerificationService/Verify")(
            b"\xff", metadata=[_bearer(suite.secrets["all"])]
        )
    (detail,) = rpc_status.from_call(refused.value).details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    assert bad.field_violations[0].field == "request"


def test_a_token_that_calls_too_often_is_told_when_to_try_again_and_others_go_on(suite: Suite) -> None:
    target = suite.target("verification")
    with (
        VerificationClient(target, credentials=suite.credentials("slow")) as slow,
        VerificationClient(target, credentials=suite.credentials("all")) as other,
    ):
        assert slow.verify(["1"], ["1"])[0].correct
        with pytest.raises(OverloadedError, match="a second") as refused:
            slow.verify(["1"], ["1"])
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 100
        assert other.verify(["1"], ["1"])[0].correct


def test_every_client_works_over_mtls_with_a_token(suite: Suite) -> None:
    given = suite.credentials()
    with (
        GenerationClient(suite.target("generation"), credentials=given) as generation,
        NoveltyClient(suite.target("novelty"), "sync", credentials=given) as novelty,
        PrefixClient(suite.target("novelty"), "sync", credentials=given) as prefixes,
        VerificationClient(suite.target("verification"), credentials=given) as verification,
    ):
        for client in (generation, novelty, prefixes, verification):
            client.wait_for_ready(10)
        version = generation.get_info().policy_version + 1
        assert generation.update_weights("next", version).policy_version == version
        (group,) = generation.generate(["1+1="], n=2, max_tokens=4, seed=0)
        assert {rollout.policy_version for rollout in group} == {version}
        assert [v.correct for v in verification.verify([r"\boxed{2}"] * 2, ["2", "3"])] == [True, False]
        (answered,) = verification.verify_stream([(7, r"\boxed{2}", "2")])
        assert answered[0] == 7
        scores = novelty.score("p", embeddings=np.eye(2, 4, dtype=np.float32), correct=[True, True])
        assert len(scores) == 2
        assert prefixes.list_prefixes(["p"])
    replicas = f"dns:///localhost:{suite.target('verification').rpartition(':')[2]}"
    with VerificationClient(replicas, credentials=given) as balanced:
        assert balanced.verify([r"\boxed{2}"], ["2"])[0].correct


async def test_every_asyncio_client_works_over_mtls_with_a_token(suite: Suite) -> None:
    given = suite.credentials()
    async with (
        aio.GenerationClient(suite.target("generation"), credentials=given) as generation,
        aio.NoveltyClient(suite.target("novelty"), "asyncio", credentials=given) as novelty,
        aio.PrefixClient(suite.target("novelty"), "asyncio", credentials=given) as prefixes,
        aio.VerificationClient(suite.target("verification"), credentials=given) as verification,
    ):
        for client in (generation, novelty, prefixes, verification):
            await client.wait_for_ready(10)
        (group,) = await generation.generate(["1+1="], n=2, max_tokens=4, seed=0)
        assert len(group) == 2
        assert (await verification.verify([r"\boxed{2}"], ["2"]))[0].correct
        vectors = np.eye(2, 4, dtype=np.float32)
        assert len(await novelty.score("p", embeddings=vectors, correct=[True, True])) == 2
        assert await prefixes.list_prefixes(["p"])
    # Streams of asyncio go through a blocking client of their own.
    tensors = await asyncio.to_thread(_tensors, suite.folder / "weights" / "next")
    async with aio.GenerationClient(suite.target("generation"), credentials=given) as generation:
        version = (await generation.get_info()).policy_version + 1
        assert (await generation.stream_weights(tensors, version)).policy_version == version


def _tensors(folder: Path) -> list[tuple[str, Any]]:
    from safetensors.numpy import load_file

    return list(load_file(folder / "model.safetensors").items())


def test_the_trainers_clients_take_their_credentials_from_the_config(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(suite.secrets["all"] + "\n")
    section = CredentialsConfig(
        token_file=str(tmp_path / "token"),
        ca=str(suite.authority.file),
        certificate=str(suite.client.certificate),
        key=str(suite.client.key),
    )
    for name, value in section.environment().items():
        monkeypatch.setenv(name, value)
    with GenerationPool([suite.target("generation")]) as pool:
        pool.wait_for_ready(10)
        version = pool.policy_version() + 1
        assert pool.deliver(suite.folder / "weights", "next", version).policy_version == version
    # Services of one's own, on a socket, go on without TLS, and do not get the token, which is for others.
    monkeypatch.setenv(credentials.TOKEN, "secret-token")
    monkeypatch.setenv("EXTRA_RL_TEST_OTHER", "seen")
    with (
        embedded.start("verification", workers=1, slow_workers=0) as own,
        VerificationClient(own.target) as client,
    ):
        assert client.verify(["1"], ["1"])[0].correct
        environment = Path(f"/proc/{own.process.pid}/environ").read_bytes()
    assert b"EXTRA_RL_TEST_OTHER=seen" in environment
    assert b"secret-token" not in environment


def test_the_health_command_sees_a_server_behind_mtls(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.CA, str(suite.authority.file))
    assert probing.probe("novelty", suite.target("novelty"), 0.5) == 1
    monkeypatch.setenv(credentials.CERTIFICATE, str(suite.client.certificate))
    monkeypatch.setenv(credentials.KEY, str(suite.client.key))
    assert probing.probe("novelty", suite.target("novelty"), 10) == 0
    assert probing.probe("generation", suite.target("novelty"), 0.5) == 1


def test_a_client_is_refused_without_a_certificate_of_the_authority_or_with_one_that_expired(
    suite: Suite, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("stranger")
    expired = suite.authority.issue("expired-client", days=-1)
    target = suite.target("verification")
    for shown in (None, stranger, expired):
        given = Credentials(
            token=suite.secrets["all"],
            ca=suite.authority.file,
            certificate=shown.certificate if shown else None,
            key=shown.key if shown else None,
        )
        with VerificationClient(target, credentials=given) as client, pytest.raises(UnavailableError):
            client.verify(["1"], ["1"], deadline=1.0)
    plain = grpc.insecure_channel(target)
    request = verification_pb2.VerifyRequest().SerializeToString()
    with plain, pytest.raises(grpc.RpcError) as refused:
        plain.unary_unary("/extra_rl.v1.VerificationService/Verify")(request, timeout=5)
    assert refused.value.code() is CODE.UNAVAILABLE


def test_no_token_is_in_any_log_and_the_names_of_their_owners_are(suite: Suite) -> None:
    with VerificationClient(suite.target("verification"), credentials=suite.credentials("all")) as client:
        client.verify(["1"], ["1"])
    with (
        VerificationClient(
            suite.target("verification"), credentials=suite.credentials("elsewhere")
        ) as client,
        pytest.raises(PermissionDeniedError) as refused,
    ):
        client.verify(["1"], ["1"])
    told = "".join(service.log_file.read_text() for service in suite.services.values()) + str(refused.value)
    assert '"token": "elsewhere"' in told
    for secret in suite.secrets.values():
        assert secret not in told
        assert secret.removeprefix(tokens.PREFIX)[:12] not in told


# --- TLS alone: certificates that change, and limits ---


@dataclass
class TlsServer:
    """A server whose certificate the tests replace."""

    service: embedded.EmbeddedService
    authority: Authority
    files: Issued

    def install(self, issued: Issued) -> None:
        """Replaces the server's files by `issued`, in place."""
        shutil.copy(issued.key, self.files.key)
        shutil.copy(issued.certificate, self.files.certificate)

    def shown(self) -> bytes:
        """The certificate that a new connection sees."""
        host, port = self.service.target.rsplit(":", 1)
        return ssl.get_server_certificate((host, int(port)), timeout=10).encode()

    def verify(self, target: str | None = None) -> bool | None:
        """A verdict over a connection of its own."""
        given = Credentials(ca=self.authority.file)
        with VerificationClient(target or self.service.target, credentials=given, deadline=1.5) as client:
            return client.verify(["1"], ["1"])[0].correct

    def log(self) -> str:
        return self.service.log_file.read_text()


@pytest.fixture(scope="module")
def changing(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    files, first = Issued(folder / "tls.crt", folder / "tls.key"), authority.issue("first")
    shutil.copy(first.key, files.key)
    shutil.copy(first.certificate, files.certificate)
    with embedded.start(
        "verification",
        folder / "log",
        host="127.0.0.1",
        port=0,
        tls_certificate=files.certificate,
        tls_key=files.key,
        workers=1,
        slow_workers=0,
        max_message_bytes=2**20,
        max_concurrent_rpcs=4,
    ) as service:
        yield TlsServer(service, authority, files)


def test_a_replaced_certificate_serves_new_connections_and_old_ones_go_on(changing: TlsServer) -> None:
    second = changing.authority.issue("second")
    given = Credentials(ca=changing.authority.file)
    with VerificationClient(changing.service.target, credentials=given) as old:
        assert old.verify(["1"], ["1"])[0].correct
        before = changing.shown()
        changing.install(second)
        after = changing.shown()
        assert after.split() == second.certificate.read_bytes().split() != before.split()
        assert changing.verify()
        assert old.verify(["1"], ["1"])[0].correct
    assert "new certificate" in changing.log()


def test_broken_certificate_files_leave_the_old_certificate_in_service_and_are_logged(
    changing: TlsServer,
) -> None:
    before, good = changing.shown(), changing.files.certificate.read_bytes()
    changing.files.certificate.write_bytes(
        changing.authority.issue("of-another-key").certificate.read_bytes()
    )
    assert changing.shown() == before
    changing.files.certificate.write_bytes(good[:100])
    assert changing.shown() == before
    changing.files.certificate.unlink()
    assert changing.shown() == before
    assert changing.log().count("the new certificate cannot be used") >= 3
    changing.install(changing.authority.issue("third"))
    assert changing.shown() != before
    assert changing.verify()


def test_a_replaced_client_authority_is_the_one_asked_for_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    server_files, asked_for = old.issue("server"), tmp_path / "clients.pem"
    shutil.copy(old.file, asked_for)
    files = Certificates(server_files.certificate, server_files.key, asked_for)
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", files.server_credentials())
    server.start()

    def admitted(client: Issued) -> bool:
        tls = grpc.ssl_channel_credentials(
            old.file.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes()
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"127.0.0.1:{port}", tls, options) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            end = check.future(health_pb2.HealthCheckRequest(), timeout=30).code()
        assert end in (CODE.OK, CODE.UNAVAILABLE)
        return end is CODE.OK

    before, after = old.issue("client"), new.issue("client")
    assert (admitted(before), admitted(after)) == (True, False)
    shutil.copy(new.file, asked_for)
    assert (admitted(before), admitted(after)) == (False, True)
    server.stop(None)


def test_a_client_refuses_a_server_whose_certificate_expired_or_is_for_another_host_or_of_another_authority(
    changing: TlsServer, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    for issued in (
        changing.authority.issue("expired", days=-1),
        changing.authority.issue("elsewhere", hosts=("novelty.example", "10.1.2.3")),
        stranger.issue("stranger"),
    ):
        changing.install(issued)
        with pytest.raises(UnavailableError, match="no TLS with the verification server"):
            changing.verify()
    changing.install(changing.authority.issue("fourth"))
    assert changing.verify()


def test_a_message_over_the_limit_is_refused_and_the_client_says_what_to_do(changing: TlsServer) -> None:
    given = Credentials(ca=changing.authority.file)
    with VerificationClient(changing.service.target, credentials=given) as client:
        with pytest.raises(InvalidArgumentError, match="max-message-bytes"):
            client.verify(["1" * 2**21], ["1"])
        assert client.verify(["1"], ["1"])[0].correct
    tls = grpc.ssl_channel_credentials(changing.authority.file.read_bytes())
    with (
        grpc.secure_channel(changing.service.target, tls) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary("/extra_rl.v1.VerificationService/Verify")(bytes(2**21), timeout=30)
    assert refused.value.code() is CODE.RESOURCE_EXHAUSTED


def test_calls_over_the_limit_of_those_at_once_are_refused(changing: TlsServer) -> None:
    tls = grpc.ssl_channel_credentials(changing.authority.file.read_bytes())
    request = verification_pb2.VerifyRequest().SerializeToString()
    done = threading.Event()

    def until_done() -> Iterator[bytes]:
        yield verification_pb2.VerifyStreamRequest(id=1).SerializeToString()
        done.wait()

    with grpc.secure_channel(changing.service.target, tls) as channel:
        stream = channel.stream_stream("/extra_rl.v1.VerificationService/VerifyStream")
        streams = [stream(until_done(), timeout=60) for _ in range(4)]
        for open_stream in streams:
            next(open_stream)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/extra_rl.v1.VerificationService/Verify")(request, timeout=30)
        assert refused.value.code() is CODE.RESOURCE_EXHAUSTED
        done.set()
        for open_stream in streams:
            list(open_stream)
        channel.unary_unary("/extra_rl.v1.VerificationService/Verify")(request, timeout=30)


# --- What needs no server ---


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "[::]", "10.1.2.3", "novelty.example", "", "localhost.example"]
)
def test_a_server_listens_to_other_machines_without_tls_only_if_told_to(host: str) -> None:
    with pytest.raises(ConfigError, match="allow_plaintext_network"):
        load(VerificationSettings, [f"--host={host}"])
    entry = {"name": "a", "sha256": tokens.mint()[1], "scopes": {"*": "read"}}
    with pytest.raises(ConfigError, match="so would the tokens"):
        load(VerificationSettings, [f"--host={host}", f"--tokens={json.dumps([entry])}"])
    assert load(VerificationSettings, [f"--host={host}", "--allow-plaintext-network"]).host == host
    files = ["--tls-certificate=c", "--tls-key=k"]
    assert load(VerificationSettings, [f"--host={host}", *files]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", "unix:/tmp/socket"])
def test_a_server_on_this_machine_alone_needs_no_tls(host: str) -> None:
    assert load(VerificationSettings, [f"--host={host}"]).host == host


def test_half_a_security_setting_is_an_error(authority: Authority, tmp_path: Path) -> None:
    for flags in (["--tls-certificate=c"], ["--tls-key=k"], ["--tls-client-ca=a"]):
        with pytest.raises(ConfigError, match="tls_certificate and tls_key"):
            load(VerificationSettings, flags)
    one, other = authority.issue("one"), authority.issue("another")
    with pytest.raises(ConfigError, match="tls_certificate"):
        Certificates(one.certificate, other.key, None)
    with pytest.raises(ConfigError, match="cannot read"):
        Certificates(one.certificate, tmp_path / "missing", None)
    with pytest.raises(InvalidArgumentError, match="belong together"):
        Credentials(ca=authority.file, certificate=one.certificate)
    with pytest.raises(InvalidArgumentError, match="ca turns on"):
        Credentials(certificate=one.certificate, key=one.key)


def test_a_token_put_where_its_hash_belongs_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret, digest = tokens.mint()
    sound = {"name": "a", "sha256": digest, "scopes": {"*": "read"}}
    for changed in ({"sha256": secret}, {"token": secret}):
        with pytest.raises(ConfigError) as told:
            load(VerificationSettings, ["--tokens", json.dumps([sound | changed])])
        assert secret not in str(told.value)
    for wrong in (secret, json.dumps([secret]), json.dumps([sound | {"sha256": [secret]}])):
        with pytest.raises(ConfigError) as told:
            load(VerificationSettings, ["--tokens", wrong])
        assert secret not in str(told.value)
    monkeypatch.setenv("EXTRA_RL_VERIFICATION_TOKENS", secret)
    with pytest.raises(ConfigError, match="must be JSON") as told:
        load(VerificationSettings, [])
    assert secret not in str(told.value)
    monkeypatch.delenv("EXTRA_RL_VERIFICATION_TOKENS")
    with pytest.raises(ConfigError, match="differ in name"):
        load(VerificationSettings, ["--tokens", json.dumps([sound, sound])])


def test_a_client_sends_no_token_to_another_machine_unencrypted_unless_told_to() -> None:
    given = Credentials(token="secret-token")
    assert "secret-token" not in repr(given)
    for target in ("10.1.2.3:50052", "dns:///novelty:50052", "ipv4:127.0.0.1:1,10.1.2.3:1", "novelty"):
        with pytest.raises(InvalidArgumentError, match="unencrypted"):
            NoveltyClient(target, "run-1", credentials=given)
    told = Credentials(token="secret-token", allow_plaintext_network=True)
    for target, shown in (("10.1.2.3:50052", told), ("127.0.0.1:1", given), ("dns:///localhost:1", given)):
        NoveltyClient(target, "run-1", credentials=shown).close()


def test_no_path_of_a_request_leaves_the_weights_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", make_model(tmp_path / "outside")
    sound = make_model(root / "sound")
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "deep", "index", "binary"):
        shutil.copytree(sound, root / name)
    (root / "file" / "model.safetensors").unlink()
    (root / "file" / "model.safetensors").symlink_to(outside / "model.safetensors")
    (root / "deep" / "inner").mkdir()
    (root / "deep" / "inner" / "link").symlink_to(outside)
    index = {"metadata": {}, "weight_map": {"w": "../../outside/model.safetensors"}}
    (root / "index" / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / "binary" / "model.safetensors.index.json").write_bytes(b"\x80")
    assert weights.resolve(root, "sound") == sound.resolve()
    assert weights.resolve(root, "sound/../sound") == sound.resolve()
    for path in (
        *(
            "link",
            "loop",
            "dangling",
            "file",
            "deep",
            "index",
            "binary",
            "",
            ".",
            "..",
            "../outside",
            "sound\0",
        ),
        *("sound/../../outside", str(outside), "/", "~", "x" * 300, "/".join(["x"] * 3000)),
    ):
        with pytest.raises(InvalidInput):
            weights.resolve(root, path)


def test_paths_that_leave_the_root_are_refused_by_the_service(suite: Suite) -> None:
    with GenerationClient(suite.target("generation"), credentials=suite.credentials()) as client:
        version = client.get_info().policy_version
        for path in ("../model", str(suite.folder / "model"), "/etc/passwd", "next\0", "x" * 300):
            with pytest.raises(InvalidArgumentError):
                client.update_weights(path, version + 1)
        assert client.get_info().policy_version == version


@pytest.mark.parametrize("model_type", ["qwen3", "unheard_of"])
def test_code_in_a_folder_of_weights_does_not_run(suite: Suite, model_type: str) -> None:
    folder, ran = make_model(suite.folder / "weights" / model_type), suite.folder / f"ran-{model_type}"
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": names}))
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()")
    with GenerationClient(suite.target("generation"), credentials=suite.credentials()) as client:
        version = client.get_info().policy_version
        with contextlib.suppress(FailedPreconditionError):
            client.update_weights(model_type, version + 1)
        assert client.get_info().policy_version == version + (model_type == "qwen3")
    assert not ran.exists()


def test_a_wrong_token_is_an_unauthenticated_error_that_names_no_token(suite: Suite) -> None:
    unknown, _ = tokens.mint()
    given = Credentials(
        token=unknown, ca=suite.authority.file, certificate=suite.client.certificate, key=suite.client.key
    )
    with (
        VerificationClient(suite.target("verification"), credentials=given) as client,
        pytest.raises(UnauthenticatedError) as refused,
    ):
        client.verify(["1"], ["1"])
    assert unknown not in str(refused.value)
    assert os.environ.get(credentials.TOKEN) is None


def test_tokens_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    secrets = [tokens.mint() for _ in range(2)]

    def known(index: int) -> None:
        write_tokens(file, [(f"caller-{index}", secrets[index][1])])

    known(0)
    with embedded.start("verification", workers=1, slow_workers=0, tokens_file=file) as service:
        clients = [
            VerificationClient(service.target, credentials=Credentials(token=secret)) for secret, _ in secrets
        ]
        for index in (0, 1, 0):
            known(index)
            assert clients[index].verify(["1"], ["1"])[0].correct
            with pytest.raises(UnauthenticatedError):
                clients[1 - index].verify(["1"], ["1"])
