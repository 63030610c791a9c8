"""The compiled kernels: each gets an array of integers and computes its thread's share of the work.

    arguments[0]    threads of the team
    arguments[1]    items of work: the rows, blocks or chunks that are shared out
    arguments[2:]   addresses of the data, and sizes, as each kernel says

All of them lie in this one file because numba's cache on disk notices a change of the file a kernel
is in, not of one it imports from. A kernel is compiled, or taken from that cache, at its first
launch. Loops run over whole slices from 0: only then does LLVM see that no index is negative, and
vectorizes them.

T rows (tokens), D features of a row, O out_features, F features of the MLP.
"""

# numba gives these functions their types; to mypy they have none.
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, cfunc, config, float32, int32, int64, njit, types, uint64
from numba.extending import intrinsic

from lorakit.kernels.cpu import threads

_THREAD_NUMBER = "lorakit_thread_number"
_thread_number = types.ExternalFunction(_THREAD_NUMBER, types.int32())
_SIGNATURE = types.void(types.CPointer(types.int64))
# Sums may be reordered and products fused, as in every BLAS; NaN and infinity stay what they are.
_RELAXED = {"contract", "reassoc", "nsz", "arcp"}
# A division by zero gives infinity: an exception would end a thread's share halfway, unseen.
_NO_ERRORS = {"error_model": "numpy"}


class Kernel:
    """A function of the argument array, compiled when its address is first asked for."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        self._compiled: Any = None

    def address(self) -> int:
        if self._compiled is None:
            llvmlite.binding.add_symbol(_THREAD_NUMBER, threads.thread_number_address())
            try:
                self._compiled = cfunc(_SIGNATURE, cache=True, **_NO_ERRORS)(self._function)
            except RuntimeError:  # no folder to cache in can be written to
                self._compiled = cfunc(_SIGNATURE, **_NO_ERRORS)(self._function)
        return self._compiled.address

    def __call__(self, work: int, num_bytes: int, *arguments: Any) -> None:
        """See `threads.run`."""
        threads.run(self.address, work, num_bytes, *arguments)


@intrinsic
def _address(context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


@intrinsic
def _float_of_bits(context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always")
def _floats(address, count):
    return carray(_address(address), (count,), np.float32)


@njit(inline="always")
def _bytes(address, count):
    return carray(_address(address), (count,), np.uint8)


@njit(inline="always")
def _integers(address, count):
    return carray(_address(address), (count,), np.int32)


@njit(inline="always")
def _longs(address, count):
    return carray(_address(address), (count,), np.int64)


@njit(inline="always")
def _share(arguments):
    """First and last item of this thread."""
    team, work = arguments[0], arguments[1]
    number = int64(_thread_number())
    return work * number // team, work * (number + 1) // team


@njit(inline="always", fastmath=_RELAXED)
def _exp(x):
    """e**x to 2e-7 of its value (Cephes' expf), in a form that vectorizes; x is clamped to
    [-87, 88]."""
    x = float32(-87.0) if x < float32(-87.0) else x
    x = float32(88.0) if x > float32(88.0) else x
    n = np.rint(x * float32(1.44269504))
    r = x - n * float32(0.693359375) - n * float32(-2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * (r * r) + r + float32(1)
    return p * _float_of_bits((int32(n) + int32(127)) << int32(23))


# Four-bit weights. No relaxed arithmetic: the bits are bitsandbytes'.


def _has_avx2():
    """Whether numba compiles for a processor with AVX2: asked of what it goes by itself."""
    if config.CPU_NAME is not None or config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx2"))


_AVX2 = _has_avx2()


# Weights that `_unpack_avx2` writes at a time: the table is loaded once for so many.
_AT_ONCE = 32


@intrinsic
def _unpack_avx2(context: Any, codes: Any, table: Any, scale: Any, out: Any) -> Any:
    """Write `_AT_ONCE` weights: a table of 16 numbers is two AVX registers.

    The permutation looks at the lowest three bits of a lane alone; the fourth, moved to the sign,
    says from which half.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, table, scale, out = arguments
        word, long = ir.IntType(32), ir.IntType(64)
        eight, numbers = ir.VectorType(word, 8), ir.VectorType(ir.FloatType(), 8)
        permute = builder.module.declare_intrinsic(
            "llvm.x86.avx2.permps", fnty=ir.FunctionType(numbers, [numbers, eight])
        )

        def at(address: Any, offset: int, kind: Any) -> Any:
            moved = builder.add(address, ir.Constant(long, offset))
            return builder.inttoptr(moved, kind.as_pointer())

        def lanes(counts: list[int]) -> Any:
            return ir.Constant(eight, counts)

        def in_every_lane(kind: Any, value: Any) -> Any:
            undefined, first = ir.Constant(kind, ir.Undefined), ir.Constant(word, 0)
            one = builder.insert_element(undefined, value, first)
            return builder.shuffle_vector(one, one, lanes([0] * 8))

        scales = in_every_lane(numbers, scale)
        halves = [builder.load(at(table, offset, numbers), align=4) for offset in (0, 32)]
        for first in range(0, _AT_ONCE, 8):
            four_bytes = builder.load(at(codes, first // 2, word), align=1)
            # The first weight of a byte is in its upper half.
            shifts = lanes([4, 0, 12, 8, 20, 16, 28, 24])
            code = builder.lshr(in_every_lane(eight, four_bytes), shifts)
            low, high = (builder.call(permute, [half, code]) for half in halves)
            in_high = builder.icmp_signed("<", builder.shl(code, lanes([28] * 8)), lanes([0] * 8))
            weights = builder.fmul(builder.select(in_high, high, low), scales)
            builder.store(weights, at(out, 4 * first, numbers), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@njit(error_model="numpy")
def _unpack(codes, num_codes, table, scale, out):
    """Two weights a code; codes, table and out are addresses."""
    done = 0
    if _AVX2:
        at_once = _AT_ONCE // 2
        done = num_codes // at_once * at_once
        for i in range(0, done, at_once):
            _unpack_avx2(codes + i, table, scale, out + i * 8)
    numbers = _floats(table, 16)
    packed = _bytes(codes, num_codes)
    weights = _floats(out, 2 * num_codes)
    for i in range(done, num_codes):
        weights[2 * i] = numbers[packed[i] >> 4] * scale
        weights[2 * i + 1] = numbers[packed[i] & 15] * scale


@Kernel
def four_bit_dequantize(arguments):
    """codes uint8, scales float32 (blocks,), code book float32 (16,), out float32, number of
    weights, block size; work: blocks."""
    codes, code_book, out = arguments[2], arguments[4], arguments[5]
    num_weights, block = arguments[6], arguments[7]
    scales = _floats(arguments[3], arguments[1])
    first, last = _share(arguments)
    for b in range(first, last):
        start = b * block
        size = min(block, num_weights - start)
        _unpack(codes + start // 2, size // 2, code_book, scales[b], out + start * 4)
        if size % 2:
            last_code = _bytes(codes + (start + size) // 2, 1)[0]
            number = _floats(code_book, 16)[last_code >> 4]
            _floats(out + (start + size - 1) * 4, 1)[0] = number * scales[b]


@njit(error_model="numpy")
def _largest(bits):
    # Of floats without their sign the order is that of their bits, NaN last: one NaN is found.
    largest = int32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & int32(0x7FFFFFFF))
    return largest


@njit(error_model="numpy")
def _add_above(values, midpoint, step, totals):
    for i in range(values.size):
        totals[i] += step if values[i] > midpoint else int32(0)


@njit(error_model="numpy")
def _times(values, factor, out):
    for i in range(values.size):
        out[i] = values[i] * factor


@njit(error_model="numpy")
def _in_nibbles(numbers, codes):
    for i in range(codes.size):
        codes[i] = (numbers[2 * i] << int32(4)) | numbers[2 * i + 1]


@Kernel
def four_bit_quantize(arguments):
    """weights float32, midpoints float32 (15,), codes of the values in ascending order int32 (16,),
    smallest scale float32 (1,), codes uint8, scales float32 (blocks,), block size, and room for a
    block of each thread: float32 and int32 (threads, block); work: blocks."""
    count, block = arguments[1], arguments[8]
    weights, bits = _floats(arguments[2], count * block), _integers(arguments[2], count * block)
    midpoints, order = _floats(arguments[3], 15), _integers(arguments[4], 16)
    smallest = _floats(arguments[5], 1)[0]
    codes, scales = _bytes(arguments[6], count * block // 2), _floats(arguments[7], count)
    room = int64(_thread_number()) * block
    normed = _floats(arguments[9], arguments[0] * block)[room : room + block]
    numbers = _integers(arguments[10], arguments[0] * block)[room : room + block]
    first, last = _share(arguments)
    for b in range(first, last):
        a, z = b * block, (b + 1) * block
        scale = _float_of_bits(_largest(bits[a:z]))
        inverse = float32(1) / max(scale, smallest)
        _times(weights[a:z], inverse, normed)
        # The code of the nearest value: that of the lowest, and at each midpoint below the weight
        # a step to the next one's.
        numbers[:] = order[0]
        for k in range(15):
            _add_above(normed, midpoints[k], order[k + 1] - order[k], numbers)
        _in_nibbles(numbers, codes[a // 2 : z // 2])
        scales[b] = scale


@njit(error_model="numpy")
def _scales(codes, values, factor, offset, out):
    for i in range(codes.size):
        out[i] = values[codes[i]] * factor + offset


@Kernel
def dequantize_scales(arguments):
    """codes uint8, values float32 (256,), factors float32 (nested blocks,), address of the offset,
    out float32, scales in all, scales of a nested block; work: nested blocks."""
    count, block = arguments[7], arguments[8]
    codes, out = _bytes(arguments[2], count), _floats(arguments[6], count)
    values, factors = _floats(arguments[3], 256), _floats(arguments[4], arguments[1])
    offset = _floats(arguments[5], 1)[0]
    first, last = _share(arguments)
    for b in range(first, last):
        a, z = b * block, min(b * block + block, count)
        _scales(codes[a:z], values, factors[b], offset, out[a:z])


# RMSNorm: y = x / sqrt(mean(x**2) + eps) * weight.


@njit(fastmath=_RELAXED, error_model="numpy")
def _dot(a, b):
    total = float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(fastmath=_RELAXED, error_model="numpy")
def _scaled_product(a, b, factor, out):
    for i in range(a.size):
        out[i] = a[i] * factor * b[i]


@njit(fastmath=_RELAXED, error_model="numpy")
def _norm_gradient(x, weight, grad, inverse, out):
    total = float32(0)
    for i in range(x.size):
        total += grad[i] * weight[i] * x[i]
    shift = total / float32(x.size) * inverse * inverse
    for i in range(x.size):
        out[i] = (grad[i] * weight[i] - x[i] * shift) * inverse


@Kernel
def rms_norm(arguments):
    """x (T, D), weight (D,), y (T, D), inverse (T,), D, address of eps; float32; work: rows."""
    rows, d = arguments[1], arguments[6]
    x, y = _floats(arguments[2], rows * d), _floats(arguments[4], rows * d)
    weight, inverse = _floats(arguments[3], d), _floats(arguments[5], rows)
    eps = _floats(arguments[7], 1)[0]
    first, last = _share(arguments)
    for t in range(first, last):
        row = x[t * d : t * d + d]
        factor = float32(1) / np.sqrt(_dot(row, row) / float32(d) + eps)
        inverse[t] = factor
        _scaled_product(row, weight, factor, y[t * d : t * d + d])


@Kernel
def rms_norm_backward(arguments):
    """x, weight, gradient of y, inverse, gradient of x, D; work: rows."""
    rows, d = arguments[1], arguments[7]
    x, grad, out = (
        _floats(arguments[2], rows * d),
        _floats(arguments[4], rows * d),
        _floats(arguments[6], rows * d),
    )
    weight, inverse = _floats(arguments[3], d), _floats(arguments[5], rows)
    first, last = _share(arguments)
    for t in range(first, last):
        a, b = t * d, t * d + d
        _norm_gradient(x[a:b], weight, grad[a:b], inverse[t], out[a:b])


# The gate of a Llama MLP: h = silu(gate) * up. Work is counted in chunks, to be shared out evenly.

CHUNK = 4096


@njit(fastmath=_RELAXED, error_model="numpy")
def _silu_mul(gate, up, out):
    for i in range(gate.size):
        out[i] = gate[i] / (float32(1) + _exp(-gate[i])) * up[i]


@njit(fastmath=_RELAXED, error_model="numpy")
def _silu_mul_gradient(gate, up, grad, grad_gate, grad_up):
    for i in range(gate.size):
        sigmoid = float32(1) / (float32(1) + _exp(-gate[i]))
        silu = gate[i] * sigmoid
        passed = grad[i]
        grad_up[i] = passed * silu
        grad_gate[i] = passed * up[i] * (sigmoid + silu * (float32(1) - sigmoid))


@Kernel
def silu_mul(arguments):
    """gate, up, out; numbers in all; work: chunks."""
    n = arguments[5]
    gate, up, out = _floats(arguments[2], n), _floats(arguments[3], n), _floats(arguments[4], n)
    first, last = _share(arguments)
    a, b = first * CHUNK, min(last * CHUNK, n)
    _silu_mul(gate[a:b], up[a:b], out[a:b])


@Kernel
def silu_mul_backward(arguments):
    """gate, up, gradient, gradient of gate, gradient of up (may be the gradient's own memory);
    numbers in all; work: chunks."""
    n = arguments[7]
    gate, up, grad = _floats(arguments[2], n), _floats(arguments[3], n), _floats(arguments[4], n)
    grad_gate, grad_up = _floats(arguments[5], n), _floats(arguments[6], n)
    first, last = _share(arguments)
    a, b = first * CHUNK, min(last * CHUNK, n)
    _silu_mul_gradient(gate[a:b], up[a:b], grad[a:b], grad_gate[a:b], grad_up[a:b])


# DoRA's magnitudes: sums over tokens of gradient times output.


@njit(fastmath=_RELAXED, error_model="numpy")
def _add_product(a, b, total):
    for i in range(a.size):
        total[i] += a[i] * b[i]


@Kernel
def column_dots(arguments):
    """a (T, O), b (T, O), sums (threads, O), T, O; work: threads."""
    rows, o, team = arguments[5], arguments[6], arguments[1]
    a, b = _floats(arguments[2], rows * o), _floats(arguments[3], rows * o)
    sums = _floats(arguments[4], team * o)
    first, last = _share(arguments)
    for part in range(first, last):
        total = sums[part * o : part * o + o]
        total[:] = float32(0)
        for t in range(rows * part // team, rows * (part + 1) // team):
            _add_product(a[t * o : t * o + o], b[t * o : t * o + o], total)


# Rotary embedding: (x1, x2) -> (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), the halves of every head.


@njit(fastmath=_RELAXED, error_model="numpy")
def _rotate(x1, x2, cos1, cos2, sin1, sin2, y1, y2):
    for i in range(x1.size):
        left, right = x1[i], x2[i]
        y1[i] = left * cos1[i] - right * sin1[i]
        y2[i] = right * cos2[i] + left * sin2[i]


@njit(fastmath=_RELAXED, error_model="numpy")
def _rotate_back(x1, x2, cos1, cos2, sin1, sin2, y1, y2):
    for i in range(x1.size):
        left, right = x1[i], x2[i]
        y1[i] = left * cos1[i] + right * sin2[i]
        y2[i] = right * cos2[i] - left * sin1[i]


@Kernel
def rotary(arguments):
    """x (T, heads, D) with rows and heads so many numbers apart, cos (T, R), sin (T, R),
    y (T, heads, D) contiguous, heads, D, R rotated features, row stride, head stride, 1 for the
    backward pass; work: rows."""
    rows, heads, d, rotated = arguments[1], arguments[6], arguments[7], arguments[8]
    stride, head_stride, backward = arguments[9], arguments[10], arguments[11]
    x = _floats(arguments[2], (rows - 1) * stride + (heads - 1) * head_stride + d)
    cos, sin = _floats(arguments[3], rows * rotated), _floats(arguments[4], rows * rotated)
    y = _floats(arguments[5], rows * heads * d)
    half = rotated // 2
    first, last = _share(arguments)
    for t in range(first, last):
        a, m, b = t * rotated, t * rotated + half, t * rotated + rotated
        for head in range(heads):
            i = t * stride + head * head_stride
            o = (t * heads + head) * d
            x1, x2 = x[i : i + half], x[i + half : i + rotated]
            y1, y2 = y[o : o + half], y[o + half : o + rotated]
            if backward:
                _rotate_back(x1, x2, cos[a:m], cos[m:b], sin[a:m], sin[m:b], y1, y2)
            else:
                _rotate(x1, x2, cos[a:m], cos[m:b], sin[a:m], sin[m:b], y1, y2)
            y[o + rotated : o + d] = x[i + rotated : i + d]


# Keyed dropout: the masks of `reference/dropout.py`, made and applied in one pass.


@njit(inline="always")
def _finalize(x):
    x = x ^ (x >> uint64(30))
    x = x * uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> uint64(27))
    x = x * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@njit(error_model="numpy")
def _drop(x, key, threshold, kept, out):
    for k in range(x.size // 2):
        bits = _finalize(key + (uint64(k) + uint64(1)) * uint64(0x9E3779B97F4A7C15))
        low, high = bits & uint64(0xFFFFFFFF), bits >> uint64(32)
        out[2 * k] = x[2 * k] * (kept if low >= threshold else float32(0))
        out[2 * k + 1] = x[2 * k + 1] * (kept if high >= threshold else float32(0))
    if x.size % 2:
        k = x.size // 2
        bits = _finalize(key + (uint64(k) + uint64(1)) * uint64(0x9E3779B97F4A7C15))
        low = bits & uint64(0xFFFFFFFF)
        out[2 * k] = x[2 * k] * (kept if low >= threshold else float32(0))


@Kernel
def dropout(arguments):
    """x (T, D), keys int64 (T,), out (T, D), D, threshold, address of 1 / (1 - p); work: rows."""
    rows, d = arguments[1], arguments[5]
    x, out = _floats(arguments[2], rows * d), _floats(arguments[4], rows * d)
    keys = _longs(arguments[3], rows)
    threshold = uint64(arguments[6])
    kept = _floats(arguments[7], 1)[0]
    first, last = _share(arguments)
    for t in range(first, last):
        _drop(x[t * d : t * d + d], uint64(keys[t]), threshold, kept, out[t * d : t * d + d])
