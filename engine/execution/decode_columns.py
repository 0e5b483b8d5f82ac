"""Where the columns of decode steps are kept, on the host and on the device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine.execution.slots import IntArray
from engine.execution.staging import Staging
from kernels.attention.protocol import DecodeBuffers

COLUMNS = range(10)
POSITION, WRITE, TOKEN, NEXT, SAMPLE, ROW, SLOT, PROMPT_LENGTH, FRESH, CONTEXT = COLUMNS
"""int64 each; CONTEXT holds twice as many int32, of which the first half counts."""
ASCENDING = slice(POSITION, ROW)
"""Those that go up by one with each token, as long as a row stays within its block and its slot."""


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """What the forward pass of a decode step reads, one token per row; rows behind the batch's are padding.

    Tensors on the device that stay where they are while their contents change from step to step.
    """

    token_entries: torch.Tensor
    """int64 [rows]: where each row's input stands in the flat token table; 0 for padding."""
    positions: torch.Tensor
    """int64 [rows]; 0 for padding."""
    num_prompt_tokens: torch.Tensor
    """int64 [rows]: of each row's sequence."""
    attention: DecodeBuffers

    def first(self, num_rows: int, num_blocks: int) -> "DecodeInputs":
        """The same tensors' first rows, with the table's first columns."""
        buffers = self.attention
        return DecodeInputs(
            self.token_entries[:num_rows],
            self.positions[:num_rows],
            self.num_prompt_tokens[:num_rows],
            DecodeBuffers(
                context_lens=buffers.context_lens[:num_rows],
                block_table=buffers.block_table[:num_rows, :num_blocks],
                write_slots=buffers.write_slots[:num_rows],
            ),
        )


class DecodeColumns:
    """Columns of up to `max_rows` rows, and their block table. A shared staging needs no second copy of them."""

    def __init__(self, max_rows: int, max_blocks: int, staging: Staging) -> None:
        self._staging = staging
        self._staged = staging.memory((len(COLUMNS), max_rows), torch.int64)
        self.host: IntArray = self._staged.numpy()
        """[columns, max_rows]"""
        self.host[:] = 0
        self.host[WRITE] = -1
        self.device = staging.send(self._staged)
        """int64 [columns, max_rows]"""
        self.host_contexts: npt.NDArray[np.int32] = self.host[CONTEXT].view(np.int32)[:max_rows]
        self._staged_table = torch.empty(0, dtype=torch.int32)
        self._table = torch.empty(0, dtype=torch.int32)
        if not staging.is_shared:
            self._staged_table = staging.memory((max_rows * max_blocks,), torch.int32)
            self._table = torch.zeros(max_rows, max_blocks, dtype=torch.int32, device=staging.device)

    @property
    def inputs(self) -> DecodeInputs:
        """All rows'. Not with a shared staging, which has no table that stays."""
        assert not self._staging.is_shared
        columns = self.device
        return DecodeInputs(
            token_entries=columns[TOKEN],
            positions=columns[POSITION],
            num_prompt_tokens=columns[PROMPT_LENGTH],
            attention=DecodeBuffers(
                context_lens=columns[CONTEXT].view(torch.int32)[: columns.shape[1]],
                block_table=self._table,
                write_slots=columns[WRITE],
            ),
        )

    def pad_from(self, row: int) -> None:
        """All rows from there on are padding."""
        self.host[:, row:] = 0
        self.host[WRITE, row:] = -1
        self.host_contexts[row:] = 0

    def send(self) -> None:
        """What is in `host` to the device, in one copy."""
        if not self._staging.is_shared:
            self._staging.refill(self.device, self._staged)

    def send_table(self, tables: npt.NDArray[np.int32], rows: IntArray, num_blocks: int) -> torch.Tensor:
        """The first blocks of some rows of `tables`, int32 [len(rows), num_blocks] on the device; a new object."""
        if self._staging.is_shared:
            return torch.from_numpy(tables[rows, :num_blocks])
        staged = self._staged_table[: len(rows) * num_blocks].view(len(rows), num_blocks)
        staged.numpy()[:] = tables[rows, :num_blocks]
        table = self._table[: len(rows), :num_blocks]
        self._staging.refill(table, staged)
        return table
