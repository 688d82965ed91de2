"""What can go wrong between an application and a server, each with a class of its own.

    ClientError(DeploykitError)      10
    ├── UnavailableError             nobody answers there, or the server takes no more requests now
    ├── DeadlineExceededError        the call's `timeout` ran out
    ├── CancelledError               the call was cancelled, by `cancel()` or by the server
    ├── InvalidRequestError          the server, or this client, can't take the request as it is
    ├── NotFoundError                no such model on the server
    ├── PermissionDeniedError        the server refuses this caller
    ├── StreamBrokenError            the answer began and didn't end
    └── ServerError                  the server failed

All of them end a command with exit status 10. `DeadlineExceededError`, `CancelledError` and `StreamBrokenError` hold in
`text` what had arrived of the answer.
"""

from deploykit.errors import DeploykitError

__all__ = [
    "CancelledError",
    "ClientError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "ServerError",
    "StreamBrokenError",
    "UnavailableError",
]


class ClientError(DeploykitError):
    """A call to a server failed.

    Example:
        ```python
        from deploykit.client import Client, ClientError

        try:
            with Client("localhost:8001") as client:
                print(client.generate("def ").text)
        except ClientError as error:
            print(f"no answer: {error}")
        ```
    """

    exit_code = 10

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text
        """What had arrived of the answer."""


class UnavailableError(ClientError):
    """Nobody answers there, or the server takes no more requests now; asking again later may help.

    Example:
        ```python
        from deploykit.client import Client, UnavailableError

        with Client("localhost:8001") as client:
            try:
                print(client.generate("def ").text)
            except UnavailableError as error:
                print(f"later: {error}")
        ```
    """

    def __init__(self, message: str, *, text: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, text=text)
        self.retry_after = retry_after
        """Seconds in which the server wants no further try, where it says so."""


class DeadlineExceededError(ClientError):
    """The call's `timeout` ran out; the server has dropped the request, too.

    Example:
        ```python
        from deploykit.client import Client, DeadlineExceededError

        with Client("localhost:8001") as client:
            try:
                print(client.generate("def ", timeout=2).text)
            except DeadlineExceededError as error:
                print(f"in time: {error.text!r}")
        ```
    """


class CancelledError(ClientError):
    """The call was cancelled: by `TextStream.cancel()`, by `Client.close()`, or by the server.

    Example:
        ```python
        from deploykit.client import Client, CancelledError

        with Client("localhost:8001") as client:
            stream = client.generate("def ", stream=True)
            stream.cancel()
            try:
                stream.completion()
            except CancelledError as error:
                print(f"before that: {error.text!r}")
        ```
    """


class InvalidRequestError(ClientError):
    """The request can't be taken as it is: a bad parameter, a prompt that is empty or too long, and the like.

    Example:
        ```python
        from deploykit.client import Client, InvalidRequestError

        with Client("localhost:8001") as client:
            try:
                print(client.generate("def ", timeout=-1).text)
            except InvalidRequestError as error:
                print(error)
        ```
    """


class NotFoundError(ClientError):
    """There is no such model on the server, or it has several and none was named.

    Example:
        ```python
        from deploykit.client import Client, NotFoundError

        with Client("localhost:8001") as client:
            try:
                print(client.generate("def ", model="writer").text)
            except NotFoundError as error:
                print(f"{error}; there are {client.models()}")
        ```
    """


class PermissionDeniedError(ClientError):
    """The server refuses this caller.

    Example:
        ```python
        from deploykit.client import Client, PermissionDeniedError

        with Client("localhost:8001", api_key="sk-1") as client:
            try:
                print(client.models())
            except PermissionDeniedError as error:
                print(f"another key, please: {error}")
        ```
    """


class StreamBrokenError(ClientError):
    """The answer began and didn't end: the connection or the model's process died.

    It is never asked for again by itself, since a sampled answer would go on differently.

    Example:
        ```python
        from deploykit.client import Client, StreamBrokenError

        with Client("localhost:8001") as client:
            try:
                for chunk in client.generate("def ", stream=True):
                    print(chunk.text, end="")
            except StreamBrokenError as error:
                print(f"only {len(error.text)} characters arrived")
        ```
    """


class ServerError(ClientError):
    """The server failed to answer, for a reason of its own.

    Example:
        ```python
        from deploykit.client import Client, ServerError

        with Client("localhost:8001") as client:
            try:
                print(client.generate("def ").text)
            except ServerError as error:
                print(f"its log says more: {error}")
        ```
    """
