"""Changes of a shard's devices: what blocks is done in a thread, all else in the loop.

    asked -> opened and prepared in a thread -> the store begins the change -> answered

Opening a device waits for its lock, preallocates a file and reads what is there; none of that holds
the loop, and a refusal is the answer to who asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import structlog

from mezzo.errors import Busy, InternalError, InvalidArgument, MezzoError, Unavailable
from mezzo.protocol.messages import DeviceAction, DeviceChange, DeviceState
from mezzo_server.blockstore.format.superblock import Superblock
from mezzo_server.blockstore.io import Device
from mezzo_server.blockstore.join import JoinTerms, prepare
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.config import ShardConfig
from mezzo_server.shard.device_opening import is_path, open_configured, same_device

OPENING_MAX = 4
"""Devices that are being opened at a time; each takes a thread."""

log = structlog.get_logger("mezzo.devices")

Apart = Callable[[Callable[[], None], Callable[[], None]], None]
"""Runs the first in a thread of its own, then the second in ours."""
Answer = Callable[[MezzoError | None], None]


class DeviceChanges:
    """Begins changes of the devices of one store. Owner of the names of devices being opened."""

    def __init__(
        self, store: BlockStore, config: ShardConfig, apart: Apart, poke: Callable[[], None]
    ) -> None:
        self._store = store
        self._config = config
        self._apart = apart
        self._poke = poke
        self._opening: set[str] = set()

    def states(self) -> list[DeviceState]:
        """All devices, and what is done to them."""
        return [
            DeviceState(
                status.name,
                status.state,
                status.bytes_total,
                status.bytes_live,
                status.chunks,
                status.segments_total,
                status.segments_free,
                status.segments_retired,
                status.change,
                status.change_state,
                status.change_bytes,
                status.change_bytes_done,
                status.change_s,
            )
            for status in self._store.devices_state()
        ]

    def begin(self, asked: DeviceChange, answer: Answer) -> None:
        """Begin a change; ``answer`` is called once, when it has begun or was refused.

        Raises MezzoError for what can be refused at once.
        """
        try:
            action = DeviceAction(asked.action)
        except ValueError:
            raise InvalidArgument(f"device action {asked.action} is unknown") from None
        membership = self._store.membership
        if asked.device in self._opening:
            raise Busy(f"device {asked.device} is being opened or grown", retry_after_s=1.0)
        if action is DeviceAction.ADD:
            self._open(asked.device, asked, answer, membership.add)
            return
        name = self._name(asked.device)
        if action is DeviceAction.REPLACE:
            membership.check_drain(name, replaced=True)
            self._open(asked.by, asked, answer, lambda device, block: membership.replace(name, device, block))
        elif action is DeviceAction.GROW:
            self._grow(name, asked.capacity_bytes, answer)
        else:
            (membership.drain if action is DeviceAction.DRAIN else membership.cancel)(name)
            self._log(action.name.lower(), name)
            answer(None)
            self._poke()

    def _name(self, text: str) -> str:
        """The name by which the store knows the device that was meant."""
        names = [device.name for device in self._store.devices]
        if text in names:
            return text
        same = [name for name in names if same_device(name, text)]
        return same[0] if len(same) == 1 else text

    def _open(
        self,
        spec: str,
        asked: DeviceChange,
        answer: Answer,
        begin: Callable[[Device, Superblock], None],
    ) -> None:
        terms = self._store.join_terms()
        if not spec:
            raise InvalidArgument("which device is to be added? Its path is empty")
        if is_path(spec) and not os.path.isabs(spec):
            raise InvalidArgument(
                f"device {spec}: give an absolute path, the server has its own working folder"
            )
        for device in self._store.devices:
            if same_device(device.name, spec):
                raise InvalidArgument(f"device {spec} is part of the store already ({device.name})")
        self._enter(spec)
        result: list[tuple[Device, Superblock] | MezzoError] = []

        def work() -> None:
            result.append(self._prepare(spec, asked, terms))

        def done() -> None:
            self._opening.discard(spec)
            outcome = result[0] if result else InternalError(f"device {spec}: opening it failed")
            if not isinstance(outcome, MezzoError):
                device, block = outcome
                try:
                    begin(device, block)
                except MezzoError as refused:
                    error = refused
                    self._apart(device.close, lambda: answer(error))
                    return
                self._log(DeviceAction(asked.action).name.lower(), asked.device, by=asked.by)
                self._poke()
            answer(outcome if isinstance(outcome, MezzoError) else None)

        self._apart(work, done)

    def _prepare(
        self, spec: str, asked: DeviceChange, terms: JoinTerms
    ) -> tuple[Device, Superblock] | MezzoError:
        """In a thread: open it and make it fit to join; a file that was made for nothing is removed."""
        made = is_path(spec) and not os.path.lexists(spec)
        device: Device | None = None
        try:
            device = open_configured(spec, self._config, asked.capacity_bytes)
            block = prepare(
                device,
                terms,
                format_foreign=asked.format,
                created_s=int(time.time()),
                entropy=os.urandom,
            )
        except MezzoError as error:
            _undo(device, spec, made)
            return error
        except OSError as error:
            _undo(device, spec, made)
            return Unavailable(f"device {spec}: {error.strerror or error}")
        return device, block

    def _grow(self, name: str, capacity_bytes: int, answer: Answer) -> None:
        device = self._store.membership.check_grow(name).device
        self._enter(name)
        result: list[MezzoError | None] = []

        def work() -> None:
            try:
                device.grow(capacity_bytes)
            except MezzoError as error:
                result.append(error)
            except OSError as error:
                result.append(Unavailable(f"device {name}: {error.strerror or error}"))
            else:
                result.append(None)

        def done() -> None:
            self._opening.discard(name)
            error = result[0] if result else InternalError(f"device {name}: growing it failed")
            if error is None:
                try:
                    self._store.membership.grow(name)
                except MezzoError as refused:
                    error = refused
                else:
                    self._log("grow", name, bytes=device.size_bytes)
                    self._poke()
            answer(error)

        self._apart(work, done)

    def _enter(self, name: str) -> None:
        if name in self._opening:
            raise Busy(f"device {name} is being opened already", retry_after_s=1.0)
        if len(self._opening) >= OPENING_MAX:
            raise Busy(f"{OPENING_MAX} devices are being opened already", retry_after_s=1.0)
        self._opening.add(name)

    def _log(self, action: str, device: str, **more: object) -> None:
        log.info("device change begins", action=action, device=device, **more)


def _undo(device: Device | None, spec: str, made: bool) -> None:
    if device is not None:
        device.close()
    if made and os.path.lexists(spec):
        os.unlink(spec)
