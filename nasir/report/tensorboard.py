"""TensorBoard events of a run: metrics, learning rate, costs and depths by epoch. Needs `nasir[tensorboard]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nasir.errors import UsageError
from nasir.records import EndRecord, EpochRecord, Record


class TensorBoard:
    """A listener for journal records; writes `events.out.tfevents.*` files into `folder`."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise UsageError("--tensorboard needs the package tensorboard; `pip install nasir[tensorboard]`") from None
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))

    def record(self, record: Record) -> None:
        """Write the scalars of an epoch record, and of the end record; others have none."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)]
        if values:
            event = self._event(wall_time=record.time, step=getattr(record, "epoch", 0))
            event.summary.CopyFrom(self._summary(value=values))
            self._writer.add_event(event)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """(tag, value) of the numbers in a journal record."""
    if isinstance(record, EndRecord):
        for name, value in record.metrics.items():
            yield f"final/{name}", float(value)
    if not isinstance(record, EpochRecord):
        return
    for name, value in record.metrics.items():
        split, _, metric = name.partition(".")
        yield f"{metric}/{split}", float(value)
    for name, number in (("lr", record.lr), ("params", record.params), ("macs", record.macs)):
        if number is not None:
            yield f"network/{name}", float(number)
    for stage, depth in record.depths.items():
        yield f"depth/{stage}", float(depth)
