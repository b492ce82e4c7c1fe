"""What every process of tests/test_bench.py does: count the bytes that `distributed_barcode` hands to torch.distributed, by step.

Started by torchrun, and imported by the tests for the inputs. Each rank writes what it counted to ``FOLDER/RANK.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from simplicial_reg.distributed import distributed_barcode
from tests.programs import leave_together

SIZES = (7, 1, 12)
D = 3


def points(rank: int) -> Tensor:
    return torch.randn(SIZES[rank], D, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def count(rank: int) -> dict[str, int]:
    sent = dict.fromkeys(("agree", "pairs", "merging", "telling", "ends"), 0)

    def counting(function: Callable[..., Any], tensors: Callable[..., tuple[str, list[Tensor]]]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            step, handed = tensors(*arguments)
            sent[step] += sum(tensor.numel() * tensor.element_size() for tensor in handed)
            return function(*arguments, **options)

        return run

    isend = dist.isend
    dist.batch_isend_irecv = counting(
        dist.batch_isend_irecv,
        lambda operations: ("pairs", [one.tensor for one in operations if one.op is isend]),
    )
    dist.send = counting(dist.send, lambda tensor, *_: ("merging", [tensor]))
    dist.broadcast = counting(
        dist.broadcast, lambda tensor, source, *_: ("telling", [tensor] if rank == source else [])
    )
    dist.all_gather = counting(dist.all_gather, lambda parts, tensor: ("agree", [tensor]))
    dist.all_to_all_single = counting(dist.all_to_all_single, lambda theirs, tensor, *_: ("ends", [tensor]))
    distributed_barcode(points(rank))
    return sent


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    name = Path(sys.argv[1]) / f"{dist.get_rank()}.json"
    name.write_text(json.dumps(count(dist.get_rank())), encoding="utf-8")
    leave_together()
