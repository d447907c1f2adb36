"""What a training run computes on: device, precision, and the processes that share the work.

Several processes (``accelerate launch``, ``torchrun``) are joined by Hugging Face accelerate. Every process holds the
whole model and computes the gradients of its share of each batch, in as many passes as it needs; they are averaged once
per update. Networks are called by their parts (``start``, ``advance``, ``finish``) and differentiated several times a
step; DistributedDataParallel, which synchronises in every backward pass, would not do. Autocast and loss scaler are
torch's own: accelerate's belong to one state per process, which cannot change its precision from one run to the next,
and scale nothing on a CPU.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tavt_kit.core.lock import held_folder
from tavt_kit.errors import TavtError, TrainingError
from tavt_kit.runtimes.on_torch import is_bf16_faster

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_NAMES = {"fp32": "f32", "float32": "f32", "bfloat16": "bf16", "fp16": "f16", "float16": "f16"}


def choose_device(text: str | None) -> torch.device:
    """``None`` or ``"auto"``: a CUDA GPU if there is one, else the CPU; TrainingError for a device not here."""
    if text in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert text is not None
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"training runs on auto, cpu or cuda[:N], got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"{text} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use `device` cpu"
        )
    return device


def choose_precision(text: str | None, device: torch.device) -> str:
    """``"f32"``, ``"bf16"`` or ``"f16"``; ``None`` is bf16 where the processor multiplies it faster, else f32."""
    if text is None:
        return "bf16" if is_bf16_faster(device) else "f32"
    name = _NAMES.get(text, text)
    if name not in _DTYPES:
        raise TrainingError(f"training runs in {' or '.join(_DTYPES)}, got {text!r}")
    return name


def dtype_of(precision: str) -> torch.dtype:
    """``torch.float32``, ``torch.bfloat16`` or ``torch.float16``."""
    return _DTYPES[precision]


def evaluation_precision(precision: str) -> str:
    """What a model trained in ``precision`` is evaluated in: float16 may overflow without its loss scaling's help."""
    return "f32" if precision == "f16" else precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in the 16 bits asked for, or everything as it is."""
    if precision == "f32":
        return nullcontext()
    return torch.autocast(device.type, dtype_of(precision))


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss of float16, whose small gradients would vanish; in other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "f16")


T = TypeVar("T")

_PATIENCE = timedelta(hours=6)
"""How long the others wait while the first process evaluates; a process that died is noticed by the launcher."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among its fellows, on its device: its number, from 0, and how many there are.

    The first process alone writes files; with one, nothing here communicates.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str | None = None) -> Processes:
        """Meet the other processes that a launcher started, if it did; each takes its own GPU where there are some.

        Raises:
            TrainingError: No such device here, or one GPU (``"cuda:1"``) for several processes.
        """
        chosen = choose_device(device)
        if _launched("WORLD_SIZE", "1") == 1:
            return cls(0, 1, chosen)
        if chosen.index is not None:
            raise TrainingError(f"each process takes a GPU of its own, got `device` {device}; give cuda or cpu")
        for name in ("RANK", "MASTER_PORT"):
            _launched(name)
        from accelerate import PartialState

        first = not torch.distributed.is_initialized()
        state = PartialState(cpu=chosen.type == "cpu", timeout=_PATIENCE)
        if first:
            atexit.register(state.destroy_process_group)
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def once(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all of them; an error that it raises on purpose is raised in all."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except TavtError as error:
                answer[1] = error
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]  # type: ignore[no-any-return]

    @contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Keep everything else out of an output folder, by the first process for all."""
        with ExitStack() as stack:
            self.once(lambda: stack.enter_context(held_folder(folder)))
            yield

    def together(self, make: Callable[[], T]) -> T:
        """What each process makes for itself; an error that one of them raises on purpose is raised in all."""
        if self.count == 1:
            return make()
        made, error = None, None
        try:
            made = make()
        except TavtError as raised:
            error = raised
        if self.any(error is not None)[0]:
            raise next(one for one in self.gather(error) if one is not None)
        return made  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])  # type: ignore[no-any-return]

    def any(self, *claims: bool) -> tuple[bool, ...]:
        """Which of the claims some process makes."""
        if self.count == 1:
            return claims
        found = torch.tensor(claims, dtype=torch.float32, device=self.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return tuple(claim > 0 for claim in found.tolist())

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over all processes of each value; every process gives the same names."""
        if self.count == 1:
            return dict(values)
        found = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(found)
        return dict(zip(values, (found / self.count).tolist(), strict=True))

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the first one."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over all processes, in a single exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def _launched(name: str, default: str = "") -> int:
    """A number that a launcher sets."""
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise TrainingError(
            f"the environment's {name} is a whole number that torchrun or accelerate sets, got {text!r}; unset "
            "WORLD_SIZE, or start by a launcher"
        )
    return int(text)
