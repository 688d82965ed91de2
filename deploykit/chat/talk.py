"""The loop: a line, its answer, the next line."""

from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Final

from deploykit.chat.commands import run_command
from deploykit.chat.conversation import Conversation
from deploykit.chat.models import ChatModel, Piece, TooLongError
from deploykit.chat.screen import Interruption, Screen, check_line, one_interrupt
from deploykit.errors import DeploykitError

LEAVING: Final = "Ctrl-D or /exit leaves, /help says what else there is"
_STOPPED: Final = "stopped"
_BROKEN: Final = "broken"


class Talk:
    """A conversation between a screen and a model."""

    def __init__(
        self,
        model: ChatModel,
        conversation: Conversation,
        screen: Screen,
        *,
        sampling: Mapping[str, Any] | None = None,
        file: Path | None = None,
        target: str = "…",
    ) -> None:
        """Begin or resume it.

        Args:
            model: who answers.
            conversation: what was said already.
            screen: where lines come from.
            sampling: options by name.
            file: where `/save` without a name saves.
            target: how the command names the model.
        """
        self.model = model
        self.conversation = conversation
        self.screen = screen
        self.sampling = dict(sampling or {})
        self.file = file
        self.target = target
        self.over = False
        self._tokens = 0
        self._full = False

    def run(self) -> None:
        """Answer lines until there are no more.

        Raises:
            DeploykitError: something failed, and no person is there to be told and to go on.
        """
        while not self.over:
            try:
                line = self.screen.read()
                if line is None:
                    return
                self._take(line)
            except KeyboardInterrupt:
                if not self.screen.interactive:
                    raise
                # At the prompt, or a second one right behind the end of an answer.
                self.conversation.settle()
                self.screen.note(f"\n{LEAVING}")
            except DeploykitError as error:
                self.screen.fail(error)

    def say(self, text: str) -> None:
        """Have a message answered.

        Raises:
            DeploykitError: it failed; the message counts as not said, unless a part of the answer came.
        """
        self.conversation.ask(text)
        said: list[str] = []
        reason: str | None = _BROKEN
        try:
            reason = self._listen(said)
        finally:
            self._keep("".join(said), reason)

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        check_line(line)
        if line.startswith("/") and not line.startswith("//"):
            run_command(self, line.strip())
        else:
            self.say(line[1:] if line.startswith("//") else line)

    def _listen(self, said: list[str]) -> str | None:
        """Show the answer, add its pieces to `said`, and return why it ended."""
        reason = None
        with one_interrupt() if self.screen.interactive else nullcontext(Interruption()) as interruption:
            try:
                with closing(self._pieces()) as pieces:
                    for piece in pieces:
                        said.append(piece.text)
                        self.screen.write(piece.text)
                        self._tokens, self._full, reason = piece.tokens, piece.full, piece.finish_reason
            except KeyboardInterrupt:
                if not self.screen.interactive:
                    raise
                interruption.heard = True
                return _STOPPED
        return reason

    def _pieces(self) -> Generator[Piece, None, None]:
        """Yield the answer, the oldest turns left out until there is room for it."""
        tight = False
        while True:
            try:
                yield from self.model.answer(self.conversation.sent(), self.sampling, tight=tight)
            except TooLongError:
                if tight:
                    raise
            else:
                return
            left_out = self.conversation.forgotten
            # The last message alone must do with what room there is.
            tight = not self.conversation.forget()
            if not left_out and not tight:
                self.screen.note("(the context is full: the oldest messages are left out from now on)")

    def _keep(self, answer: str, reason: str | None) -> None:
        """End the answer on the screen, and remember it as far as it came."""
        broken_off = reason in (_STOPPED, _BROKEN)
        if broken_off and not answer:
            self.conversation.undo()
        else:
            self.conversation.answer(answer, stopped=broken_off)
            self.screen.end()
        if reason == _STOPPED:
            self.screen.note("(stopped)" if answer else "(stopped; the message is taken back)")
        elif reason == "length":
            tokens = f"{self._tokens} token{'' if self._tokens == 1 else 's'}"
            self.screen.note(f"(cut at {tokens}: {'the context is full' if self._full else 'max_tokens'})")
