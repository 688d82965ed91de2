"""`chat_template`: a checkpoint's own chat template, run where it can do no harm.

    template = ChatTemplate.open(folder)
    text = template.render(check_messages(json.loads(body)))

A template is a program by whoever made the checkpoint. It runs in jinja2's sandbox, which bounds neither time nor
memory, so that sandbox stands in a process of its own (`sandbox.py`), which the kernel limits and which is replaced
when it has gone too far (`worker.py`, `crew.py`).
"""

from deploykit.chat_template.limits import Limits
from deploykit.chat_template.messages import check_messages, check_tools, read_messages, read_tools
from deploykit.chat_template.template import ChatTemplate, VariableError

__all__ = ["ChatTemplate", "Limits", "VariableError", "check_messages", "check_tools", "read_messages", "read_tools"]
