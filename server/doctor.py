"""moonshine-asr doctor: what this machine can do, what is missing, and what to type."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from moonshine_client.command_line import Parser
from runtime import hardware
from runtime.engine import manifest, selection, tensorrt_package
from runtime.exceptions import EngineError
from server import settings as settings_module
from server.errors import SettingsError, StartError
from server.settings import Settings
from server.startup import choice_of, listen_for_http

LEAST_FREE_GB = 1.0  # an engine of Base takes 0.12 to 0.5 GB
PACKAGES_OF_WEIGHTS = {"moonshine_cpp": "Moonshine Base", "moonshine_voice": "Moonshine Tiny"}


@dataclass(frozen=True)
class CheckResult:
    """One line of the report."""

    what: str
    found: str
    advice: str = ""
    """The command or setting that helps; empty if all is well."""


def main(arguments: list[str] | None = None) -> int:
    """Print the report. Returns 0 if a server could be started now, else 1."""
    make_parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        settings = settings_module.load()
    except SettingsError as exc:
        console.print(f"[red]✗[/] settings  {escape(str(exc))}")
        return 1
    findings = list(examine(settings))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        console.print(f"{'[yellow]![/]' if finding.advice else '[green]✓[/]'} {finding.what:<{width}}  {escape(finding.found)}")
        if finding.advice:
            console.print(f"  {'':<{width}}  → {escape(finding.advice)}")
    return 1 if any(finding.advice and finding.what in ("engine", "port") for finding in findings) else 0


def make_parser() -> Parser:
    description = "Reports what this machine can do, what is missing, and what to type."
    return Parser("moonshine-asr doctor", description, ("moonshine-asr doctor", "ASR_PORT=9000 moonshine-asr doctor"))


def examine(settings: Settings) -> Iterator[CheckResult]:
    examinations: tuple[Callable[[Settings], CheckResult], ...] = (
        python,
        processor,
        gpu,
        target,
        weights,
        engine,
        port,
        disk,
        variables,
    )
    for examination in examinations:
        yield examination(settings)


def python(settings: Settings) -> CheckResult:
    return CheckResult("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def processor(settings: Settings) -> CheckResult:
    flags = hardware.processor_flags()
    levels = [name for name in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return CheckResult("processor", f"{os.cpu_count()} cores" + (f" with {', '.join(levels)}" if levels else ""))


def gpu(settings: Settings) -> CheckResult:
    found = hardware.find_gpu()
    if found is None:
        return CheckResult("GPU", "none that CUDA sees; the CPU serves")
    package = tensorrt_package.find()
    packages = [package.flavour] if package and package.runs_on(found.compute_capability) else []
    packages += ["torch"] if selection.torch_has_cuda() else []
    described = (
        f"{found.name}, compute capability {found.compute_capability}; usable: {', '.join(packages) or 'no package for it'}"
    )
    return CheckResult(
        "GPU", described, "" if packages else "install the extra [gpu] (TensorRT for RTX) or [torch]; docs/gpu.md says which"
    )


def target(settings: Settings) -> CheckResult:
    chosen, reason = selection.target_to_build(settings.model.precision)
    if settings.model.engine_target:
        return CheckResult("target", f"{settings.model.engine_target}, as ASR_TARGET says; auto would take {chosen}: {reason}")
    return CheckResult("target", f"{chosen}: {reason}", "apt-get install -y g++" if selection.wants_compiler() else "")


def weights(settings: Settings) -> CheckResult:
    model = settings.model.model_id
    if Path(model).is_dir():
        return CheckResult("weights", f"{model}, a directory")
    packages = [
        f"{name} (in the package {module})" for module, name in PACKAGES_OF_WEIGHTS.items() if importlib.util.find_spec(module)
    ]
    return CheckResult("weights", f"{model}, from the model hub" + (f"; without it: {', '.join(packages)}" if packages else ""))


def engine(settings: Settings) -> CheckResult:
    choice, max_batch = choice_of(settings), settings.batching.max_batch
    try:
        found = selection.check(choice, max_batch)
    except EngineError as exc:
        return CheckResult(
            "engine",
            str(exc).partition("; run:")[0],
            "bash scripts/start.sh builds it" if manifest.in_checkout() else "moonshine-asr serve builds it",
        )
    carried = f", carries {found.live_streams} live streams" if found.live_streams else ""
    return CheckResult("engine", f"{found.target} {found.precision} of {found.model}{carried}: {choice.directory}")


def port(settings: Settings) -> CheckResult:
    try:
        for listener in listen_for_http(settings.listen):
            listener.close()
    except StartError as exc:
        return CheckResult("port", str(exc), "set ASR_PORT, or stop what is there")
    return CheckResult("port", f"{settings.listen.address} is free")


def disk(settings: Settings) -> CheckResult:
    directory = settings.model.engines_path.absolute()
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return CheckResult("engines", f"{directory} cannot be written to", "set ASR_ENGINE_DIR")
    return CheckResult(
        "engines", f"{directory}, {free_gb:,.1f} GB free", "" if free_gb > LEAST_FREE_GB else "make room, or set ASR_ENGINE_DIR"
    )


def variables(settings: Settings) -> CheckResult:
    unknown = settings_module.misspelt()
    named = [name for name in settings_module.variable_names() if os.environ.get(name)]
    return CheckResult("settings", ", ".join(named) or "all as they come", "; ".join(unknown))
