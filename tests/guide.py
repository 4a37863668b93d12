"""The example service of the guide, imports and names as the guide writes them."""

from dataclasses import dataclass, field
from typing import AsyncIterator  # noqa: UP035 (as the guide writes it)

from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.types import SerializationMode


@wire_type("example.tasks/TaskRequest")
@dataclass
class TaskRequest:
    task_id: str = ""
    priority: int = 0


@wire_type("example.tasks/TaskResult")
@dataclass
class TaskResult:
    task_id: str = ""
    status: str = ""


@wire_type("example.tasks/WatchRequest")
@dataclass
class WatchRequest:
    filter: str = ""


@wire_type("example.tasks/TaskUpdate")
@dataclass
class TaskUpdate:
    task_id: str = ""
    status: str = ""


@wire_type("example.tasks/LogEntry")
@dataclass
class LogEntry:
    line: str = ""


@wire_type("example.tasks/IngestResult")
@dataclass
class IngestResult:
    count: int = 0


@wire_type("example.tasks/Command")
@dataclass
class Command:
    action: str = ""


@wire_type("example.tasks/CommandResult")
@dataclass
class CommandResult:
    output: str = ""


@service("TaskEngine", version=1)
class TaskService:
    @rpc(timeout=10.0, idempotent=True)
    async def get_task(self, req: TaskRequest) -> TaskResult:
        return TaskResult(task_id=req.task_id, status="running")

    @server_stream
    async def watch_tasks(self, req: WatchRequest) -> AsyncIterator[TaskUpdate]:
        for i in range(5):
            yield TaskUpdate(task_id=f"task-{i}", status="active")

    @client_stream
    async def ingest_logs(self, stream: AsyncIterator[LogEntry]) -> IngestResult:
        count = 0
        async for _entry in stream:
            count += 1
        return IngestResult(count=count)

    @bidi_stream
    async def execute(self, commands: AsyncIterator[Command]) -> AsyncIterator[CommandResult]:
        async for cmd in commands:
            yield CommandResult(output=f"executed: {cmd.action}")


# The chat room, whose messages the guide leaves to its reader.


@wire_type("example.chat/SetNicknameRequest")
@dataclass
class SetNicknameRequest:
    nickname: str = ""


@wire_type("example.chat/SetNicknameResponse")
@dataclass
class SetNicknameResponse:
    greeting: str = ""


@wire_type("example.chat/SendMessageRequest")
@dataclass
class SendMessageRequest:
    text: str = ""


@wire_type("example.chat/SendMessageResponse")
@dataclass
class SendMessageResponse:
    echo: str = ""


@service("ChatRoom", scoped="stream")
class ChatRoomService:
    def __init__(self, peer: str | None = None):
        self.peer = peer or "unknown"
        self.nickname = f"anon-{self.peer[:8]}"
        self.messages: list[str] = []

    @rpc
    async def set_nickname(self, req: SetNicknameRequest) -> SetNicknameResponse:
        self.nickname = req.nickname
        return SetNicknameResponse(greeting=f"Welcome, {req.nickname}!")

    @rpc
    async def send_message(self, req: SendMessageRequest) -> SendMessageResponse:
        self.messages.append(req.text)
        return SendMessageResponse(echo=f"[{self.nickname}] {req.text}")

    async def on_session_close(self) -> None:
        """Called when the session stream ends."""
        print(f"Session closed for {self.nickname}: {len(self.messages)} messages")


@wire_type("example.analytics/QueryRequest")
@dataclass
class QueryRequest:
    text: str = ""


@wire_type("example.analytics/QueryResult")
@dataclass
class QueryResult:
    columns: list[str] = field(default_factory=list[str])
    rows: list[list[float]] = field(default_factory=list[list[float]])


@service(serialization=[SerializationMode.XLANG, SerializationMode.NATIVE])
class AnalyticsService:
    @rpc(serialization=SerializationMode.ROW)
    async def query(self, req: QueryRequest) -> QueryResult:
        return QueryResult(req.text.split(","), [[1.5, 2.5], [3.5, 4.5]])
