"""A conversation with one policy in the terminal, or with two side by side."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from actors.worlds import load_world
from actors.worlds.base import Message
from loop.config.schema import RunConfig
from loop.report.listing import clean

AGAIN, QUIT = "/again", "/quit"


def opening(config: RunConfig) -> list[Message]:
    """What stands before the user's first words in a conversation of the run."""
    world = load_world(config.world)
    persona = world.persona(world.scenarios[0], world.user_kinds[0], 0)
    return world.assistant_prompt(persona, 0)


@dataclass
class Chat:
    """What is said, to each policy and by it.

    Attributes:
        names: What the policies are served as.
        prompt: Messages before the first words of the user.
        seed: Of the first replies; those that follow count on from it. All policies reply with the same seed.
        sides: By policy, the conversation so far.
    """

    names: list[str]
    prompt: list[Message]
    temperature: float | None
    max_tokens: int
    seed: int
    sides: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was said."""
        self.sides = {name: list(self.prompt) for name in self.names}

    def request(self, name: str) -> dict[str, Any]:
        """The request for a policy's next reply, as the OpenAI client takes it."""
        turn = sum(m["role"] == "assistant" for m in self.sides[name])
        sampling = {} if self.temperature is None else {"temperature": self.temperature}
        return {
            "model": name,
            "messages": self.sides[name],
            "max_tokens": self.max_tokens,
            "seed": self.seed + turn,
            **sampling,
        }


def talk(chat: Chat, address: str) -> None:
    """Read messages from standard input and show what the policies reply, until the end of it or `/quit`."""
    from openai import AsyncOpenAI

    console = Console(highlight=False)
    console.print(f"{' and '.join(chat.names)}. {AGAIN} begins again, {QUIT} ends.", style="dim")
    with asyncio.Runner() as runner:  # messages are read outside of it, so that Ctrl-C ends the waiting for one
        client = AsyncOpenAI(base_url=address, api_key="none", max_retries=0)
        while (message := _read()) not in (None, QUIT):
            if message == AGAIN:
                chat.begin()
                console.print("a new conversation", style="dim")
            elif message:
                runner.run(answer(chat, client, message, console))
        runner.run(client.close())


async def answer(chat: Chat, client: Any, message: str, console: Console) -> dict[str, str]:
    """Give every policy the user's message, and show their replies as they come; returns the replies. A request that
    fails is shown in the place of its reply, and the message is taken back on that side."""
    from openai import APIError

    replies = dict.fromkeys(chat.names, "")
    for side in chat.sides.values():
        side.append({"role": "user", "content": message})

    async def one(name: str) -> None:
        try:
            stream = await client.chat.completions.create(**chat.request(name), stream=True)
            async for part in stream:
                if part.choices:
                    replies[name] += part.choices[0].delta.content or ""
        except APIError as error:
            replies[name] = f"no reply: {error}"
            chat.sides[name].pop()
            return
        chat.sides[name].append({"role": "assistant", "content": replies[name]})

    work = asyncio.gather(*map(one, chat.names))
    if console.is_terminal:
        with Live(console=console, refresh_per_second=12) as live:
            while not work.done():
                live.update(beside(replies, console.width))
                await asyncio.wait([work], timeout=0.1)
            live.update(beside(replies, console.width))
    await work
    if not console.is_terminal:
        for name, text in replies.items():
            console.print(Text(f"{name}: {clean(text)}"), soft_wrap=True)
    return replies


def beside(replies: dict[str, str], width: int) -> Group | Columns:
    """Replies side by side, or one below the other where the terminal is narrow."""
    panels = [Panel(Text(clean(text)), title=Text(name), title_align="left") for name, text in replies.items()]
    if width < 40 * len(panels):
        return Group(*panels)
    return Columns(panels, equal=True, expand=True, width=width // len(panels) - 1)


def _read() -> str | None:
    """The next message; None at the end of the input."""
    try:
        return (input("you: ") if sys.stdin.isatty() else input()).strip()
    except EOFError:
        return None
