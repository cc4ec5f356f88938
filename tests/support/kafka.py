"""An Apache Kafka of the tests' own, in KRaft mode: on loopback, with free ports, its data in a temporary
folder.

Its jars come from `tests/engines/kafka/pom.xml`, by Maven, into a folder in the user's cache.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

import pytest

from tests.support.programs import dying_with_us, suspended
from tests.support.server import accepts, free_port

_POM = Path(__file__).parents[1] / "engines" / "kafka" / "pom.xml"
# The user's, also where a test keeps evlog's own cache away from it: two workers must not run Maven at once.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_START_SECONDS = 120.0
# Quick to start, small, and one of each thread.
_JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m"]
_SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
    "SASL_PLAINTEXT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_me="right";'
    ),
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A broker that was killed is let in again once its old session is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.dedupe.buffer.size": "4000000",
    "log.segment.bytes": "16777216",
}


@functools.cache
def maybe_jars() -> str | None:
    """Return the class path of the server, fetched the first time; None without Java or Maven."""
    if not (shutil.which("java") and shutil.which("mvn")):
        return None
    name = hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    folder = _CACHE / "evlog-tests" / f"kafka-{name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fetched = Path(tempfile.mkdtemp(dir=folder.parent))
            subprocess.run(
                [
                    *("mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"),
                    f"-DoutputDirectory={fetched}",
                ],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            fetched.rename(folder)
    return os.pathsep.join(map(str, sorted(folder.glob("*.jar"))))


class KafkaServer:
    """A broker that can be killed and started again. Made by `serving`."""

    def __init__(self, folder: Path, jars: str, node: int = 1) -> None:
        self.node = node
        self.port = free_port()
        self.controller_port = free_port()
        self.password_port = free_port()  # for the user `me` with the password `right`
        self._folder = folder
        self._jars = jars
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, topic: str, **settings: object) -> str:
        """Return the URL of a store in a topic."""
        words = "&".join(f"{name.replace('_', '.')}={value}" for name, value in settings.items())
        return f"kafka://127.0.0.1:{self.port}/{topic}" + (f"?{words}" if words else "")

    def create(self, voters: str = "", cluster: str = "", **settings: str) -> None:
        """Make the data folder, for a server of its own or for one of a cluster."""
        controller = self.controller_port
        all_settings = {
            **_SETTINGS,
            "node.id": str(self.node),
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
            f"SASL_PLAINTEXT://127.0.0.1:{self.password_port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": voters or self.voter,
            "log.dirs": str(self._folder / "data"),
            **settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in all_settings.items())
        self._settings_path.write_text(text)
        words = ["format", "-t", cluster or _new_id(), "-c", str(self._settings_path)]
        done = subprocess.run(
            [*self._java("kafka.tools.StorageTool"), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def voter(self) -> str:
        """How the other servers of its cluster reach it."""
        return f"{self.node}@127.0.0.1:{self.controller_port}"

    @property
    def _settings_path(self) -> Path:
        return self._folder / "server.properties"

    def _java(self, program: str) -> list[str]:
        return [*dying_with_us(), *_JAVA, "-cp", self._jars, program]

    def start(self) -> None:
        """Start it and wait until it answers, which it does once it has read its data."""
        self.begin()
        self.await_ready()

    def begin(self) -> None:
        """Start it."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java("kafka.Kafka"), str(self._settings_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until it answers."""
        from confluent_kafka.admin import AdminClient

        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not accepts(self.port):
            assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "the broker did not start"
            time.sleep(0.05)
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}"})
        client.list_topics(timeout=_START_SECONDS)  # its first answer takes long: it loads classes

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend it inside the block."""
        assert self._process is not None
        with suspended(self._process.pid):
            yield

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # its data are of no use afterwards


@contextmanager
def serving(jars: str, place: Path | None = None, **settings: str) -> Iterator[KafkaServer]:
    """Run a new broker inside the block.

    Args:
        place: the folder for its data; None: in memory, where there is such a place.
    """
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=place or memory, prefix="evlog-test-") as name,
        KafkaServer(Path(name), jars) as server,
    ):
        server.create(**settings)
        server.start()
        yield server


@contextmanager
def serving_cluster(jars: str, servers: int) -> Iterator[list[KafkaServer]]:
    """Run the brokers of a new cluster inside the block; all of them hold every record."""
    every, majority = str(servers), str(servers // 2 + 1)
    settings = {
        "offsets.topic.replication.factor": every,
        "transaction.state.log.replication.factor": every,
        "transaction.state.log.min.isr": majority,
        "share.coordinator.state.topic.replication.factor": every,
    }
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="evlog-test-")))
        brokers = []
        for node in range(1, servers + 1):
            (place / str(node)).mkdir()
            brokers.append(stack.enter_context(KafkaServer(place / str(node), jars, node)))
        voters, cluster = ",".join(broker.voter for broker in brokers), _new_id()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda broker: broker.create(voters, cluster, **settings), brokers))
        for broker in brokers:
            broker.begin()
        for broker in brokers:
            broker.await_ready()
        yield brokers


def _new_id() -> str:
    return "A" + urlsafe_b64encode(uuid4().bytes).decode()[1:22]  # no option: it could begin with -


@contextmanager
def indexes_in(folder: Path) -> Iterator[None]:
    """Keep the local indexes of topics there inside the block, also those of child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield
