"""The command group: errors as text, Ctrl-C as exit code 130, and the list of commands."""

from __future__ import annotations

from importlib import import_module, metadata

import click

from trtcore.errors import TrtcoreError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, what shells expect."""

# name -> (module, attribute, one line for the list); a command's module is imported when it is used.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "doctor": (
        "trtcore.cli.doctor",
        "doctor",
        "What is installed, what works here, and how to fix what does not.",
    ),
    "packs": ("trtcore.cli.packs", "packs", "The installed packs and what each of them gives."),
    "ops": ("trtcore.cli.ops", "ops", "Which converter an op takes, and why; or all ops."),
    "settings": ("trtcore.cli.settings", "settings", "The compilation settings: type, default, effect."),
    "explain": ("trtcore.cli.model", "explain", "What would become of a model; builds no engine."),
    "compile": ("trtcore.cli.model", "compile_", "Compile a model and save it."),
    "run": ("trtcore.cli.model", "run", "Run a compiled model, or compile a model and run it."),
    "cache": ("trtcore.cli.cache", "cache", "The engine cache: what is in it, how large it is, empty it."),
    "inspect": ("trtcore.cli.inspect", "inspect", "What is in a compiled file, an engine or a request."),
    "replay": ("trtcore.cli.replay", "replay", "Build the engine of a request that trtcore.Debugger wrote."),
    "new-pack": ("trtcore.cli.new_pack", "new_pack", "A project for a pack of your own."),
    "demo": ("trtcore.cli.demo", "demo", "Compile a pretrained MiniLM and embed real sentences."),
}


class _Commands(click.Group):
    """Commands that are imported when they are used, and whose errors are text and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except TrtcoreError as error:
            if ctx.params.get("traceback"):
                raise
            click.echo(f"{_kind(error)}: {error}", err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            click.echo("stopped", err=True)
            ctx.exit(INTERRUPTED)


def _kind(error: TrtcoreError) -> str:
    return click.style(type(error).__name__, fg="red", bold=True)


def _version() -> str:
    try:
        return metadata.version("trtcore")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(_version(), prog_name="trtcore")
@click.option("--traceback", is_flag=True, help="Show Python's traceback of an error instead of its text.")
def main(traceback: bool) -> None:
    """Compile PyTorch models to NVIDIA TensorRT."""
