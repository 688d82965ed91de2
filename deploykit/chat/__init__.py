"""`chat`: a conversation in a terminal, with a model that runs in this process or behind a server.

    with open_model("artifact") as model:
        Talk(model, Conversation(), Pipe()).run()

`models.py` answers, `conversation.py` remembers, `commands.py` are the lines that begin with a slash, `talk.py` is the
loop, and only `screen.py` knows the terminal.
"""

from deploykit.chat.conversation import Conversation
from deploykit.chat.models import ChatModel, is_address, open_local, open_remote
from deploykit.chat.saving import load, save
from deploykit.chat.screen import Pipe, Screen, Terminal
from deploykit.chat.talk import Talk

__all__ = [
    "ChatModel",
    "Conversation",
    "Pipe",
    "Screen",
    "Talk",
    "Terminal",
    "is_address",
    "load",
    "open_local",
    "open_remote",
    "save",
]
