"""The `extra-rl` command.

Sub-commands import what they run only when they run it, so that the client-only installation stays light
and `--help` is instant.
"""

from typing import Annotated

import typer

app = typer.Typer(
    help="Reward and rollout microservices for reinforcement learning of reasoning models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _options() -> None:
    """Without a callback typer would fold a single command into the program itself."""


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASS_ON, add_help_option=False)
def serve(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="generation, novelty, verification, or all")],
) -> None:
    """Serve one service, or all; `extra-rl serve novelty --help` lists its settings."""
    from extra_cli import serving

    serving.serve(service, context.args)


def main() -> None:
    """Entry point of the console command."""
    app()
