"""Groups of commands as `qwill` lists and reads them."""

from __future__ import annotations

import click


def examples(*lines: str) -> str:
    """Of a command, for the end of its help."""
    # \b keeps click from filling the lines up.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


class InOrder(click.Group):
    """A group that lists its commands as a newcomer meets them, and not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Itself(InOrder):
    """A command that has others below it: words that name none of them are arguments of the command itself."""

    def __init__(self, own: click.Command) -> None:
        super().__init__(
            own.name, help=own.help, no_args_is_help=True, context_settings={"ignore_unknown_options": True}
        )
        self.own = own

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return None, self.own, args

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.own.format_usage(ctx, formatter)
        self.own.format_help_text(ctx, formatter)
        self.own.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
        self.own.format_epilog(ctx, formatter)
