"""Marks that make LLVM turn `for i in prange(n)` into vector instructions: the one place inside numba.

`prange` (lanes here, not threads) says that no iteration touches what another one writes, which LLVM cannot
know. It would guard each loop with hundreds of comparisons of addresses (fields of 4 and of 8 bytes might
overlap), work on half the lanes as soon as one field is float64, and mask every conditional load. So the
loops are marked: see `llvm.loop.parallel_accesses` and `llvm.access.group` in the LLVM language reference.
Nor may the arguments of the function overlap.

Without marks, to the same bytes, a step of 64 environments or more takes 1.4 to 1.7 times as long in the
markets of the literature and 1.3 times in the book with AVX-512, 1.3 to 1.5 and 1.2 times with AVX2.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from llvmlite.ir import Constant, IntType, Module
from llvmlite.ir.values import MDValue
from numba import prange
from numba.core import ir, types
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering

from mmenv.engine.compiler import notice, vector_extension, warn_of_plain


class Distinct(MDValue):  # type: ignore[misc]
    """A metadata node equal to no other; `itself` makes it its own first operand, as a loop has it."""

    def __init__(self, module: Module, *operands: Any, itself: bool = False) -> None:
        super().__init__(module, operands, name=str(len(module.metadata)))
        self.operands = (self, *operands) if itself else operands

    def descr(self, buf: list[str]) -> None:
        buf.append(f"distinct !{{ {', '.join(operand.get_reference() for operand in self.operands)} }}\n")

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class LaneLower(Lower):
    """Lowering that marks the loops over `prange`."""

    marked = 0
    """Loops that were marked in this process."""

    def post_lower(self) -> None:
        super().post_lower()
        module, blocks = self.module, self.function.blocks
        group = Distinct(module)
        for instruction in (one for block in blocks for one in block.instructions):
            if instruction.opname in ("load", "store", "call"):
                instruction.set_metadata("llvm.access.group", group)
        lanes = Constant(IntType(32), vector_extension()[1])
        parallel = module.add_metadata(["llvm.loop.parallel_accesses", group])
        width = module.add_metadata(["llvm.loop.vectorize.width", lanes])
        graph = compute_cfg_from_blocks(self.blocks)
        for label in self.prange_labels():
            innermost, *_ = graph.in_loops(label)
            header = self.blkmap[innermost.header]
            mark = Distinct(module, parallel, width, itself=True)
            # Jumps back to the loop's start. On one from before the loop, a mark says nothing.
            for block in blocks[blocks.index(header) :]:
                if header in block.terminator.operands:
                    block.terminator.set_metadata("llvm.loop", mark)
            LaneLower.marked += 1

    def prange_labels(self) -> list[int]:
        """Labels of the blocks that take the next index of a `prange`."""
        labels = []
        for label, block in self.blocks.items():
            for made in block.find_exprs("iternext"):
                while isinstance(made, ir.Expr) and made.op in ("iternext", "getiter"):
                    made = self.func_ir.get_definition(made.value)
                if isinstance(made, ir.Expr) and made.op == "call":
                    callee = self.typeof(made.func.name)
                    if isinstance(callee, types.Function) and callee.typing_key is prange:
                        labels.append(label)
        return labels


@register_pass(mutates_CFG=True, analysis_only=False)
class LaneLowering(BaseNativeLowering):
    _name = "lane_lowering"  # type: ignore[assignment]

    @property
    def lowering_class(self) -> type[Lower]:
        return LaneLower


class MarkingCompiler(CompilerBase):
    """Numba's compiler with `LaneLowering` in place of its own, and arguments that do not overlap."""

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (LaneLowering, text) if kind is NativeLowering else (kind, text) for kind, text in manager.passes
        ]
        manager.finalize()
        return [manager]


class LaneCompiler(MarkingCompiler):
    """`MarkingCompiler`, or numba's own compiler where that no longer works."""

    def define_pipelines(self) -> list[Any]:  # nothing in the cache: numba asks for a compiler
        notice.compiling(self.state.func_id.modname)
        return (
            super().define_pipelines()
            if works()
            else [DefaultPassBuilder.define_nopython_pipeline(self.state)]
        )


@functools.cache
def works() -> bool:
    """Whether marks can be made, tried on a small loop; if not, a warning says so.

    Numba may change its internals in any version.
    """

    @numba.njit(error_model="numpy", pipeline_class=MarkingCompiler)
    def add(narrow: np.ndarray, wide: np.ndarray) -> None:
        for i in prange(len(narrow)):
            wide[i] += narrow[i]

    marked, narrow, wide = LaneLower.marked, np.arange(100, dtype=np.float32), np.ones(100)
    try:
        add(narrow, wide)
    except Exception as error:  # whatever the change is
        warn_of_plain(error)
        return False
    if LaneLower.marked == marked or not (wide == narrow + 1.0).all():
        warn_of_plain("a loop was not marked" if LaneLower.marked == marked else "a sum was wrong")
        return False
    return True
