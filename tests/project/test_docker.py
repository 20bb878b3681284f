"""docs/docker.md from top to bottom, for real, and attacks on what it starts: `make test-docker`."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import attacks
import mlflow
import numpy as np
import pytest
import requests
import torch
from servers import free_port, wait_until_said

from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking import registry
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation, split
from lenet_study.training.model import LeNet

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "docker.md").read_text()
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
COMMANDS = {
    heading: "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    for heading, text in SECTIONS.items()
}
DATA = os.environ.get("LENET_STUDY_DATA", str(ROOT / "data"))
STACK, CHAMPION = "lenet-test", "lenet-test-champion"
BASE, POSTGRES = "lenet-test-base", "lenet-test-postgres"
TAGS = ("lenet-study", "lenet-study-serve")
OTHERS = ("MLFLOW_", "MAKE", "MFLAGS")  # variables that would change what the page's commands do
DAEMONS = []  # that these tests have started


def sh(command: str, **options) -> str:
    """Run a command line; return what it writes."""
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return result.stdout


def works(command: str) -> bool:
    return subprocess.run(command, shell=True, capture_output=True).returncode == 0


def install(package: str) -> None:
    sh(f"apt-get -qq update && apt-get -qq install --yes --no-install-recommends {package}")


def missing() -> str:
    """Why there is no Docker here, after all that could be done; nothing if there is."""
    can_install = os.getuid() == 0 and shutil.which("apt-get")
    if not works("docker compose version || docker-compose version"):
        if not can_install:
            return "there is no Docker Compose, and only root on Debian can be given it"
        install("docker-compose")
    if works("docker info"):
        return ""
    if not can_install:
        return "no Docker daemon answers, and only root on Debian can be given one"
    if not Path("/usr/sbin/dockerd").exists():
        install("docker.io")
    log = Path("/tmp/lenet-test-dockerd.log")
    with log.open("w") as output:
        DAEMONS.append(subprocess.Popen(["dockerd"], stdout=output, stderr=output))
    for _ in range(60):
        if works("docker info"):
            return ""
        time.sleep(1)
    return f"the Docker daemon does not start here: see {log}"


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """A daemon, and a client that builds with BuildKit: Debian's, if it is there, does."""
    own = Path("/usr/bin/docker")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("bin")
        programs = (str(folder), str(Path(sys.executable).parent), os.environ["PATH"])
        patch.setenv("PATH", os.pathsep.join(programs))
        patch.setenv("DOCKER_BUILDKIT", "1")
        reason = missing()
        if reason:
            pytest.skip(reason)
        if own.exists():
            (folder / "docker").symlink_to(own)
        users_own = [tag for tag in TAGS if sh(f"docker images --quiet {tag}")]
        for tag in users_own:
            sh(f"docker tag {tag}:latest {tag}:kept")
        yield
        for tag in users_own:
            sh(f"docker tag {tag}:kept {tag}:latest; docker rmi {tag}:kept")
    for daemon in DAEMONS:
        daemon.terminate()
        daemon.wait(60)


@pytest.fixture(scope="module")
def bases(docker, tmp_path_factory):
    """Base images: those of the files where a registry is reached, else made here."""
    official = re.search(r"^ARG BASE=(.+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)[1]
    if subprocess.run(f"timeout 120 docker pull --quiet {official}", shell=True).returncode == 0:
        return {}
    if not shutil.which("debootstrap"):
        install("debootstrap")
    if not sh(f"docker images --quiet {BASE}"):
        folder = tmp_path_factory.mktemp("debian")
        packages = "python3,python3-venv,ca-certificates"
        sh(f"debootstrap --variant=minbase --include={packages} bookworm {folder}/root >{folder}/log")
        sh(f"tar -C {folder}/root -c . | docker import - {BASE}")
        shutil.rmtree(folder / "root")
    here = ROOT / "tests" / "docker"
    build = f"docker build --quiet --build-arg BASE={BASE} --tag {POSTGRES}"
    sh(f"{build} --file {here}/postgres.Dockerfile {here}")
    return {"BASE": BASE, "POSTGRES_IMAGE": POSTGRES}


@pytest.fixture(scope="module")
def project(bases, tmp_path_factory):
    """A copy of the project, a stack of its own on a port of its own, and canaries for passwords."""
    copy = tmp_path_factory.mktemp("docker") / "project"
    names = sh("git ls-files --cached --others --exclude-standard", cwd=ROOT).splitlines()
    for name in (name for name in names if (ROOT / name).is_file()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    for wheel in (ROOT / "docker" / "wheels").glob("[!R]*"):
        shutil.copy2(wheel, copy / "docker" / "wheels")
    sh("git init --quiet && git add . && git -c user.name=x -c user.email=x commit --quiet -m x", cwd=copy)
    canary = f"canary-{secrets.token_hex(8)}"
    (copy / "pip.conf").write_text(f"[global]\n# {canary}-pip\n")
    (copy / "docker" / "secrets").mkdir(mode=0o700)
    for name in ("admin_password", "database_password", "session_key"):
        (copy / "docker" / "secrets" / name).write_text(f"{canary}-{name}")
        (copy / "docker" / "secrets" / name).chmod(0o444)
    port, champion = free_port(), free_port()
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(OTHERS)},
        **bases,
        "PORT": str(port),
        "STACK_NAME": STACK,
        "LENET_STUDY_DATA": DATA,
        "BUILD_OPTIONS": f"--secret id=pip,src={copy}/pip.conf",
    }

    def run(script: str) -> str:
        script = script.replace("127.0.0.1:8080", f"127.0.0.1:{champion}")
        script = script.replace(" champion", f" {CHAMPION}")
        login = "docker/secrets/client.sh"
        logged_in = f"if test -f {login}; then . {login}; fi\n"
        return sh(logged_in + script, cwd=copy, env=variables)

    compose = "$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)"
    stack = f"{compose} --file docker/compose.yaml --project-name {STACK}"
    everything = {**variables, "SECRETS": str(copy / "docker" / "secrets"), "HOSTS": "any"}
    sh(f"{stack} down --volumes; docker rm --force {CHAMPION}", cwd=copy, env=everything)
    yield SimpleNamespace(
        folder=copy,
        run=run,
        variables=variables,
        canary=canary,
        champion=f"http://127.0.0.1:{champion}",
        address=f"http://127.0.0.1:{port}",
    )
    sh(f"{stack} down --volumes; docker rm --force {CHAMPION}", cwd=copy, env=everything)


@pytest.fixture(scope="module")
def image(project):
    """The image, as `make image` builds it."""
    assert "--variant" in project.run(COMMANDS["The image"])
    return json.loads(sh("docker image inspect lenet-study"))[0]


@pytest.fixture(scope="module")
def stack(project, image):
    """The stack, as `make server` starts it; this process's MLflow is logged in there."""
    output = project.run(COMMANDS["A server for a team"])
    assert f"MLflow is on {project.address} for user admin" in output
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        password = f"{project.canary}-admin_password"
        patch.setenv("MLFLOW_TRACKING_URI", project.address)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        yield SimpleNamespace(client=attacks.Client(project.address, password), password=password)


@pytest.fixture(scope="module")
def ran(project, stack):
    """The run of `mlflow run docker`."""
    output = project.run(COMMANDS["Runs in a container"])  # this and the trainer's
    assert output.count(f"In MLflow's UI:\n  baseline: {project.address}/#/") == 2
    return runs()[-1]


def runs():
    """All runs of the experiment, the latest first."""
    experiment = mlflow.MlflowClient().get_experiment_by_name("fashion-mnist-lenet")
    return mlflow.MlflowClient().search_runs([experiment.experiment_id])


def container_of(service: str) -> str:
    """The id of a service's container once it is healthy."""
    of_stack = f"--filter label=com.docker.compose.project={STACK}"
    labels = f"{of_stack} --filter label=com.docker.compose.service={service}"
    deadline = time.monotonic() + 120
    while not (container := sh(f"docker ps --quiet {labels} --filter health=healthy").strip()):
        assert time.monotonic() < deadline, sh("docker ps --all")
        time.sleep(1)
    return container


def inside(container: str, command: str) -> str:
    return sh(f"docker exec {container} sh -c {json.dumps(command)}")


def test_the_image_is_labelled_small_and_without_tools(image):
    labels = image["Config"]["Labels"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert image["Config"]["User"] == "study"
    assert image["Size"] < 2.5e9
    bare = "docker run --rm --read-only --tmpfs /tmp --entrypoint sh lenet-study -c"
    assert sh(f"{bare} 'id -u'") == "10001\n"
    assert sh(f"{bare} 'for tool in gcc cc g++ make git; do command -v $tool || true; done'") == ""
    assert sh(f"{bare} 'ls -A /data /artifacts /searches; ls -d ~/.cache 2>/dev/null || true'").split() == [
        "/artifacts:",
        "/data:",
        "/searches:",
    ]
    folders = "/opt /app /data /artifacts /home"
    leftovers = '-name "*.whl" -o -name "*ubyte*" -o -name "*.db"'
    assert sh(f"{bare} 'find {folders} {leftovers}'") == ""


def test_the_image_has_the_pinned_packages(image):
    code = "from lenet_study.tracking.provenance import freeze; print(freeze())"
    listed = sh(f"docker run --rm --entrypoint python lenet-study -c '{code}'")
    installed = dict(line.split("==") for line in listed.split())
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())
    assert {name: installed[name].partition("+")[0] for name in pins} == pins


def test_containers_are_not_root_and_can_do_little(stack):
    for name in ("server", "database"):
        container = container_of(name)
        details = json.loads(sh(f"docker inspect {container}"))[0]
        assert details["State"]["Health"]["Status"] == "healthy"
        host = details["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert int(inside(container, "id -u")) != 0
        status = inside(container, "cat /proc/1/status")
        assert re.search(r"CapEff:\s*0+$", status, re.MULTILINE)
        assert re.search(r"NoNewPrivs:\s*1$", status, re.MULTILINE)
        published = [port for ports in details["NetworkSettings"]["Ports"].values() for port in ports or ()]
        assert [port["HostIp"] for port in published] == (["127.0.0.1"] if name == "server" else [])


def test_the_stack_is_closed(stack, tmp_path):
    assert attacks.refuses_all_without_password(stack.client, tmp_path) > 900
    attacks.refuses_hosts_and_origins(stack.client)


def test_a_run_in_a_container_is_whole_on_the_server(ran, image):
    assert ran.info.status == "FINISHED"
    assert ran.data.tags["mlflow.project.env"] == "docker"
    assert ran.data.tags["environment.image"] == image["Id"]
    assert ran.data.tags["git.commit"] == image["Config"]["Labels"]["org.opencontainers.image.revision"]
    assert {"train/loss", "val/accuracy", "best/val_accuracy"} <= ran.data.metrics.keys()
    client = mlflow.MlflowClient()
    names = {file.path for file in client.list_artifacts(ran.info.run_id)}
    assert {"curves.png", "architecture.png", "model_summary.txt", "environment.txt", "recipe.json"} <= names
    assert ran.info.artifact_uri.startswith("mlflow-artifacts:/")
    loaded = registry.load_model(ran.info.run_id)
    assert loaded.weights_sha256 == ran.data.tags["weights.sha256"]
    assert registry.version_of(ran.info.run_id).version


def test_the_weights_are_those_of_the_same_run_outside(ran, project, tmp_path):
    command = [sys.executable, "-m", "lenet_study", "train", "--variant", "baseline", "--epochs", "1"]
    subprocess.run(command, cwd=tmp_path, env=project.variables, check=True, capture_output=True)
    outside = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = outside.search_runs([outside.get_experiment_by_name("fashion-mnist-lenet").experiment_id])
    assert run.data.tags["weights.sha256"] == ran.data.tags["weights.sha256"]
    pins = "environment.requirements.sha256"
    assert run.data.tags[pins] == ran.data.tags[pins]


def test_the_stack_s_trainer_fetches_the_data_and_logs_the_same_weights(ran, image):
    trained = runs()[0]
    assert trained.info.run_id != ran.info.run_id
    assert trained.info.status == "FINISHED"
    assert trained.data.tags["environment.image"] == image["Id"]
    assert trained.data.tags["weights.sha256"] == ran.data.tags["weights.sha256"]


def test_a_search_beside_the_server_keeps_its_trials(ran, project):
    command = "search --trials 1 --max-epochs 1 --confirm-seeds 0 --search-name short"
    project.run(f'make trainer ARGUMENTS="{command}"')
    assert "goes on after 1 trial" in project.run(f'make trainer ARGUMENTS="{command}"')
    assert [run.info.status for run in runs() if run.data.tags["stage"] == "trial"] == ["FINISHED"]


def test_make_server_changes_nothing_where_the_server_runs_or_another_program_does(ran, project):
    container = container_of("server")
    login = project.folder / "docker" / "secrets" / "client.sh"
    before = login.read_text()
    project.run("make server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for target in ("server", "server-local"):
            with pytest.raises(AssertionError, match=f"port={port} cannot be listened on"):
                project.run(f"make {target} PORT={port}")
    assert container_of("server") == container
    assert login.read_text() == before


def test_the_stack_lets_no_path_out_of_the_artifacts(ran, stack):
    before = inside(container_of("server"), "ls -AR /tmp/server/private /app /home")
    inside(container_of("server"), f"echo {attacks.CANARY}-content > /tmp/{attacks.CANARY}")
    tried = attacks.reads_nothing_outside(stack.client, ran.info.run_id, "recipe.json", [stack.password])
    assert tried > 1000
    assert inside(container_of("server"), "ls -AR /tmp/server/private /app /home") == before
    assert registry.load_model(ran.info.run_id).weights_sha256 == ran.data.tags["weights.sha256"]


@pytest.fixture(scope="module")
def served(ran, project):
    """What the champion in its image answers to real images, which the page's last command ends."""
    *first, last = COMMANDS["The champion behind HTTP"].strip().splitlines()
    project.run("\n".join(first))
    images = DataFiles.at(DATA).test().images[:16]
    pixels = (images.float() / 255).unsqueeze(1)
    answer = requests.post(f"{project.champion}/invocations", json={"inputs": pixels.tolist()}, timeout=60)
    headers = {"Content-Type": "application/json"}
    nested = requests.post(f"{project.champion}/invocations", data="[" * 100_000, headers=headers, timeout=60)
    details = json.loads(sh(f"docker inspect {CHAMPION}"))[0]
    user = int(inside(CHAMPION, "id -u"))
    project.run(last)
    assert sh(f"docker ps --all --quiet --filter name={CHAMPION}") == ""
    return SimpleNamespace(images=images, answer=answer, nested=nested, details=details, user=user)


def test_the_champion_is_served_with_the_eager_model_s_logits(served):
    assert served.details["HostConfig"]["ReadonlyRootfs"]
    assert served.user != 0
    loaded = registry.load_model("models:/fashion-mnist-lenet@champion")
    eager = LeNet(VARIANTS["baseline"], seed=0)
    eager.load_state_dict(loaded.module.model.state_dict())
    train = DataFiles.at(DATA).train()
    rows, _ = split(train.labels, 0)
    normalise = Normalisation.of(train.subset(rows).images)
    with torch.no_grad():
        expected = eager.eval()(normalise(served.images)).numpy()
    np.testing.assert_allclose(served.answer.json()["predictions"], expected, atol=1e-5)


def test_the_champion_s_image_refuses_deep_nesting_and_a_damaged_model(served):
    assert served.nested.status_code == 400
    damage = "cp -r /model /tmp && printf x >>/tmp/model/data/model.pth"
    start = "SERVED_MODEL=/tmp/model exec uvicorn serving_app:app"
    command = [
        "docker",
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        "lenet-study-serve",
        "-c",
        f"{damage} && {start}",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "/tmp/model/data/model.pth was damaged since the model was logged" in ended.stderr


def test_nothing_is_lost_when_the_stack_stops_and_starts(ran, project, stack):
    before = {run.info.run_id for run in runs()}
    project.run(COMMANDS["The end"])
    assert sh(f"docker ps --all --quiet --filter label=com.docker.compose.project={STACK}") == ""
    project.run(COMMANDS["A server for a team"])
    assert {run.info.run_id for run in runs()} == before
    assert registry.load_model(ran.info.run_id).weights_sha256 == ran.data.tags["weights.sha256"]


def test_an_archive_of_the_server_fills_a_new_one(ran, project, stack, monkeypatch):
    archive, port, name = project.folder / "server.tar", free_port(), f"{STACK}-restored"
    before = {run.info.run_id: run.data.to_dictionary() for run in runs()}
    output = project.run(f"make server-backup TO={archive}")
    assert f"{archive}: the database and " in output
    assert project.canary not in output
    assert project.canary.encode() not in archive.read_bytes()
    with pytest.raises(AssertionError, match="is there already"):
        project.run(f"make server-backup TO={archive}")
    with pytest.raises(AssertionError, match="The server's volumes hold something"):
        project.run(f"make server-restore FROM={archive}")
    other = f"STACK_NAME={name} PORT={port}"
    try:
        assert project.canary not in project.run(f"make server-restore {other} FROM={archive}")
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            assert {run.info.run_id: run.data.to_dictionary() for run in runs()} == before
            assert registry.load_model(ran.info.run_id).weights_sha256 == ran.data.tags["weights.sha256"]
    finally:
        project.run(f"make server-stop {other}")
        sh(f"docker volume rm --force {name}_database {name}_artifacts {name}_data {name}_searches")
        project.run("make server")  # client.sh leads there again


def test_passwords_are_in_no_layer_log_process_tag_or_artifact(served, project, stack, tmp_path):
    canary = project.canary
    for tag in TAGS:
        assert canary not in sh(f"docker history --no-trunc {tag}")
        assert canary not in sh(f"docker image inspect {tag}")
        with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as save:
            rest, size = b"", 0
            while block := save.stdout.read(1 << 24):
                assert canary.encode() not in rest + block
                rest, size = block[-100:], size + len(block)
        assert size > 1e9
    for container in map(container_of, ("server", "database")):
        assert canary not in sh(f"docker logs {container} 2>&1")
        assert canary not in sh(f"docker top {container}")
        assert canary not in sh(f"docker inspect {container}")
    for run in runs():
        assert canary not in str(run.to_dictionary())
        folder = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, dst_path=str(tmp_path / run.info.run_id)
        )
        assert not any(
            canary.encode() in path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
        )


def test_a_local_store_is_refused_to_root_and_a_missing_server_named(image, project, tmp_path):
    environment = {**project.variables, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = ["mlflow", "run", str(project.folder / "docker"), "-e", "train", "-P", "epochs=1"]
    if os.getuid() == 0:
        refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "a container is not to be root" in refused.stderr
        assert "make server" in refused.stderr
    address = f"http://127.0.0.1:{free_port()}"
    away = subprocess.run(
        f"docker run --rm --network host --env MLFLOW_TRACKING_URI={address} --volume {DATA}:/data:ro "
        "lenet-study train --variant baseline --epochs 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert away.returncode == 1
    assert f"The MLflow server at {address} does not answer" in away.stderr
    assert "Traceback" not in away.stderr


def test_a_local_store_keeps_the_model_and_is_its_owner_s(image, project, tmp_path):
    user, group = 12345, int(sh("getent group docker").split(":")[2])
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={group}"]
    if os.getuid() != 0 or subprocess.run([*drop, sys.executable, "--version"]).returncode:
        pytest.skip("only root can become another user, and that user cannot run this Python")
    shutil.chown(tmp_path, user)
    for parent in (*tmp_path.parents[:2], project.folder.parent, project.folder):
        parent.chmod(0o755)
    environment = {**project.variables, "HOME": str(tmp_path), "USER": "someone"}
    command = ["mlflow", "run", str(project.folder / "docker"), "--experiment-name", "local", "-e", "train"]
    command += ["-P", "variant=baseline", "-P", "epochs=1"]
    subprocess.run([*drop, *command], cwd=tmp_path, env=environment, check=True)
    (model,) = tmp_path.glob("mlruns/1/models/*/artifacts/data/model.pth")
    assert model.stat().st_uid == user


def test_the_server_without_docker(project):
    """`make server-local`, on the page's own word."""
    command = COMMANDS["Without Docker"].split()
    port = free_port()
    log = project.folder / "server.log"
    environment = {**project.variables, "PORT": str(port)}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_said(process, log, "Application startup complete", 2)
        address = f"http://127.0.0.1:{port}"
        assert requests.get(f"{address}/health", timeout=10).status_code == 401
        login = ("admin", f"{project.canary}-admin_password")
        assert requests.get(f"{address}/health", auth=login, timeout=10).status_code == 200
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)
    assert project.canary not in log.read_text()
