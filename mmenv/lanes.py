"""`LaneCompiler`: numba's compiler, which turns `for i in prange(n)` into vector instructions, not threads.

`prange` says that no iteration touches what another one writes, which LLVM cannot know. It would guard each
loop with hundreds of comparisons of addresses (fields of 4 and of 8 bytes might overlap), work on half the
lanes as soon as one field is float64, and mask every conditional load. So the loops are marked: see
`llvm.loop.parallel_accesses` and `llvm.access.group` in the LLVM language reference. Nor may the arguments of
the function overlap.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from llvmlite import binding
from llvmlite.ir import Constant, IntType, Module, PointerType
from llvmlite.ir.values import MDValue
from numba import prange
from numba.core import ir, types
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering


def vector_extension() -> tuple[str, int]:
    """The widest vector instructions of this processor, and how many 32-bit values they take."""
    features = binding.get_host_cpu_features()
    for name, lanes in (("avx512f", 16), ("avx2", 8), ("sse4.2", 4), ("neon", 4)):
        if features.get(name):
            return name, lanes
    return "scalar", 4


class Distinct(MDValue):  # type: ignore[misc]
    """A metadata node equal to no other; `itself` makes it its own first operand, as a loop has it."""

    def __init__(self, module: Module, operands: list[Any], *, itself: bool = False) -> None:
        super().__init__(module, operands, name=str(len(module.metadata)))
        self.operands = (self, *operands) if itself else tuple(operands)

    def descr(self, buf: list[str]) -> None:
        buf.append(f"distinct !{{ {', '.join(operand.get_reference() for operand in self.operands)} }}\n")

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class LaneLower(Lower):
    """Lowering that marks the loops over `prange`."""

    def pre_lower(self) -> None:
        super().pre_lower()
        self._tails: dict[ir.Block, Any] = {}

    def post_block(self, block: ir.Block) -> None:
        super().post_block(block)
        self._tails[block] = self.builder.basic_block

    def post_lower(self) -> None:
        super().post_lower()
        for argument in self.call_conv.get_arguments(self.function):
            if isinstance(argument.type, PointerType):
                argument.add_attribute("noalias")
        group = Distinct(self.module, [])
        for block in self.function.blocks:
            for instruction in block.instructions:
                if instruction.opname in ("load", "store", "call"):
                    instruction.set_metadata("llvm.access.group", group)
        graph = compute_cfg_from_blocks(self.blocks)
        for label in self._prange_labels():
            loop, *_ = graph.in_loops(label)  # the innermost one
            mark = self._independent(group)
            for block in (self.blocks[label] for label in loop.body):
                if isinstance(block.terminator, ir.Jump) and block.terminator.target == loop.header:
                    self._tails[block].terminator.set_metadata("llvm.loop", mark)

    def _prange_labels(self) -> set[int]:
        """Labels of the blocks that take the next index of a `prange`."""
        names: set[str] = set()  # of variables that hold a prange or an iterator over one
        labels = set()
        for label, block in sorted(self.blocks.items()):
            for assign in block.find_insts(ir.Assign):
                value = assign.value
                op = value.op if isinstance(value, ir.Expr) else ""
                if op == "call":
                    callee = self.typeof(value.func.name)
                    follows = isinstance(callee, types.Function) and callee.typing_key is prange
                elif op in ("getiter", "iternext"):
                    follows = value.value.name in names
                else:
                    follows = isinstance(value, ir.Var) and value.name in names
                if follows and op == "iternext":
                    labels.add(label)
                elif follows:
                    names.add(assign.target.name)
        return labels

    def _independent(self, group: Distinct) -> Distinct:
        lanes = Constant(IntType(32), vector_extension()[1])
        parallel = self.module.add_metadata(["llvm.loop.parallel_accesses", group])
        width = self.module.add_metadata(["llvm.loop.vectorize.width", lanes])
        return Distinct(self.module, [parallel, width], itself=True)


@register_pass(mutates_CFG=True, analysis_only=False)
class LaneLowering(BaseNativeLowering):
    _name = "lane_lowering"  # type: ignore[assignment]

    @property
    def lowering_class(self) -> type[Lower]:
        return LaneLower


@functools.cache
def announce() -> None:
    """Say once, on stderr, that code is being compiled: it takes long enough to look like a hang.

    A value of the environment variable NEURALMM_QUIET silences it.
    """
    if not os.environ.get("NEURALMM_QUIET"):
        print(
            "NeuralMM: compiling what is not in the cache yet, about 15 s for a market. "
            "NEURALMM_QUIET=1 hides this line.",
            file=sys.stderr,
            flush=True,
        )


class LaneCompiler(CompilerBase):
    """Numba's compiler with `LaneLowering` in place of its own."""

    def __init__(self, *arguments: Any) -> None:  # nothing in the cache: numba asks for a compiler
        announce()
        super().__init__(*arguments)

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (LaneLowering, text) if kind is NativeLowering else (kind, text) for kind, text in manager.passes
        ]
        manager.finalize()
        return [manager]
