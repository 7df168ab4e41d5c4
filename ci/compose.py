"""Checks that the Dockerfile, docker-compose.yml and the binary fit together; ci/compose.sh calls it.

Never here: whether the files are well formed, which their own tools say.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

BINARY = sys.argv[1]
DATABASE = "sqlite:/dev/null/no-such-directory/service.db"
SECRETS = {"DATABASE": DATABASE, "MESSAGE_KEY": "key:" + "0123456789abcdef" * 2}
USAGE, ENVIRONMENT = 2, 3
PINNED = re.compile(r"^[a-z0-9./-]+:([a-z]+-\d{8}|v?\d+\.\d+)[a-z0-9.-]*$")
# Is there wherever Docker is.
DOCKERS_OWN = "/var/lib/docker/containers"
SIMPLE = YAML(typ="safe")

problems = []


def check(is_good, problem):
    if not is_good:
        problems.append(problem)


def found(pattern, file):
    match = re.search(pattern, Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    return match.group(1) if match else f"nothing like {pattern} in {file}"


def as_started(text):
    """What a process gets of a text in docker-compose.yml: variables have their defaults, and $$ is $."""
    return re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")


def check_versions(services):
    for image in re.findall(r"^FROM (\S+)", Path("Dockerfile").read_text(encoding="utf-8"), re.MULTILINE):
        check(PINNED.match(image), f"Dockerfile: {image} is not pinned to a version")
    for name, service in services.items():
        check(PINNED.match(service["image"]), f"{name}: {service['image']} is not pinned to a version")
    rust, toolchain = found(r"^FROM rust:([0-9.]+)", "Dockerfile"), found(r'^channel = "(.*)"', "rust-toolchain.toml")
    check(rust == toolchain, f"Dockerfile builds with Rust {rust}, rust-toolchain.toml says {toolchain}")
    workspace = found(r'^version = "(.*)"', "Cargo.toml")
    label = found(r'image\.version="([^"]*)"', "Dockerfile")
    check(label == workspace, f"Dockerfile labels version {label}, Cargo.toml says {workspace}")
    images = {service["image"] for service in services.values() if service["image"].startswith("skald:")}
    check(images == {f"skald:{workspace}"}, f"docker-compose.yml runs {images}, Cargo.toml says {workspace}")
    check(sum("build" in service for service in services.values()) == 1, "exactly one service builds the image that the others run")


def check_service(name, service, services, declared):
    ends_by_itself = service.get("restart") == "no"
    check(ends_by_itself or service.get("restart") == "unless-stopped", f"{name}: restart is neither no nor unless-stopped")
    check(ends_by_itself or "healthcheck" in service, f"{name}: has no healthcheck")
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    check({"cpus", "memory"} <= limits.keys(), f"{name}: has no limit of processors and memory")
    check("no-new-privileges:true" in service.get("security_opt", []), f"{name}: may gain privileges")
    for port in service.get("ports", []):
        check(port.startswith("127.0.0.1:"), f"{name}: port {port} is open to other machines")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        is_there = source in declared["volumes"] or source == DOCKERS_OWN or Path(source).exists()
        check(is_there, f"{name}: there is no volume or file {source}")
        check(not source.endswith(".sh") or os.access(source, os.X_OK), f"{name}: {source} is not executable")
    for secret in service.get("secrets", []):
        check(secret in declared["secrets"], f"{name}: there is no secret {secret}")
    for other, how in service.get("depends_on", {}).items():
        wants = "service_completed_successfully" if services[other].get("restart") == "no" else "service_healthy"
        check(how["condition"] == wants, f"{name}: of {other} it can only wait for {wants}")


def check_texts(name, service, services):
    """Files and hosts that a service names are there, and its shell scripts can be parsed."""
    command = service.get("command", "")
    test = service.get("healthcheck", {}).get("test", [])
    texts = [*(service.get("environment") or {}).values(), *(command if isinstance(command, list) else [command]), *test]
    mounted = [Path(volume.split(":")[0]) for volume in service.get("volumes", []) if volume.startswith("./observability/")]
    for file in (file for path in mounted for file in ([path] if path.is_file() else path.rglob("*.*"))):
        # Comments may name what they like.
        texts.append(re.sub(r"(?m)^\s*(#|//).*$", "", file.read_text(encoding="utf-8")))
    for text in map(str, texts):
        for secret in re.findall(r"/run/secrets/([a-z-]+[a-z])", text):
            check(secret in service.get("secrets", []), f"{name}: does not get the secret {secret}")
        for host in re.findall(r"(?:^|[ /@=\"])([a-z][a-z-]*):\d{4,5}\b", text):
            check(host in services or host == "localhost", f"{name}: there is no service {host}")
    for script in (text for text in [*test[-1:], *(command if isinstance(command, list) else [])] if " " in text):
        parsed = subprocess.run(["bash", "-n", "-c", as_started(script)], capture_output=True, text=True, check=False)
        check(parsed.returncode == 0, f"{name}: {parsed.stderr.strip()}")


def check_command_line(name, service):
    """The binary takes the flags and knows the variables; `serve` must come as far as the database, which is not there."""
    command, variables = service["command"], service.get("environment") or {}
    if isinstance(command, list):
        # A script that ends in the binary.
        script = as_started(command[-1])
        command, variables = script.rpartition("exec skald ")[2], dict.fromkeys(re.findall(r"\bSKALD_\w+", script))
    arguments = as_started(command).split()
    check(arguments[0] != "serve" or "SKALD_MESSAGE_KEY_FILE" in variables, f"{name}: serves without a message key")
    helped = subprocess.run([BINARY, *arguments, "--help"], capture_output=True, text=True, check=False)
    check(helped.returncode == 0, f"{name}: skald {command}: {helped.stderr}")
    for variable in variables:
        check(re.search(rf"\[env:\s+{variable}[=\]]", helped.stdout), f"{name}: skald does not know {variable} here")
    if arguments[0] != "serve":
        return
    with tempfile.TemporaryDirectory() as directory:
        environment = {"PATH": os.environ["PATH"]}
        for variable, value in variables.items():
            if variable.endswith("_FILE"):
                file = Path(directory, variable)
                content = next((content for word, content in SECRETS.items() if word in variable), "a password of some length")
                file.write_text(content, encoding="utf-8")
                value = str(file)
            environment[variable] = str(value)
        started = subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    came_as_far = started.returncode == ENVIRONMENT and "/dev/null" in started.stderr
    check(came_as_far, f"{name}: skald {command}: exit code {started.returncode}: {started.stderr}")


def main():
    compose = SIMPLE.load(Path("docker-compose.yml"))
    services = compose["services"]
    check_versions(services)
    for name, service in services.items():
        check_service(name, service, services, compose)
        check_texts(name, service, services)
        if service["image"].startswith("skald:"):
            check_command_line(name, service)
    for name, secret in compose["secrets"].items():
        file = Path(as_started(secret["file"]))
        check(file.is_file() and file.read_text(encoding="utf-8").strip(), f"secret {name}: there is no {file}")
    ports = [port for service in services.values() for port in service.get("ports", [])]
    check(len(ports) == len(set(ports)), f"a port is taken twice: {sorted(ports)}")
    for switch in ("--topic.deleteEnabled=false", "--topic.createEnabled=false", "--cors.enabled=false"):
        check(switch in services["kafdrop"]["environment"]["CMD_ARGS"], f"kafdrop: runs without {switch}")
    for problem in problems:
        print(f"compose: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"docker-compose.yml: {len(services)} services fit together, and skald takes their command lines")


main()
