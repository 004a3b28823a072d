"""The secret coordinate field: one factor M and one term A for every weight of a tensor.

Every weight has a secret coordinate u of four 16-bit numbers, one 64-bit word of a ChaCha20 stream (RFC 8439) whose key is
derived by HKDF-SHA256 (RFC 5869) from a subkey, a salt, the tensor's name, the strength and the tensor's widening. Where the
units of an axis have names (genes, proteins, peaks), each has a stream of its own under that key; its nonce is derived from
its name. A fixed public sinusoidal coordinate network (Sitzmann et al. 2020) maps u to three channels: a phase, from which
the sign S follows, G for the magnitude and g for the additive part:

    M = S · exp(κ · (tanh G + Σ_axes r))        A = scale · g        r: secret log-gain of an axis's unit

    scale = scale(shape) · 4^widening · strength^1.5

Version 1 of the construction, which files of infl 0.1 have, knew no widening, and the key had no strength in it.

The network is written in 16-bit integers: a phase is a number of 1/65536 turns, so that additions wrap as angles do, and
the sine is a table. Sums of integers have no rounding, so every platform, block size and number of threads gives the same
signs and channels; float64 comes in only with tanh, exp and the final product, where nothing jumps.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from math import inf, prod

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infl._threads import cores
from infl.errors import SettingsError

# The constants of the construction; docs/decisions/0002-affine-coordinate-field.md says how they were chosen.
KAPPA = 0.5  # of log |M|, at strength 1
GAIN = 1.0  # a unit's log-gain is uniform in [-GAIN, GAIN], in units of κ
ALPHA = 2.0  # standard deviation of A, in units of fan-in^(-1/4), at strength 1
ALPHA_VECTOR = 0.5  # the same for tensors with one dimension or none: biases, gains of norms, scalars
POWER = 1.5  # A grows with strength^POWER
WIDER = 4  # A is 1, 4, 16 … times as wide where a tensor's weights are large for its shape
COVER = 4  # standard deviation of A at strength 1, in units of the tensor's root mean square: at least
NAMED_UNITS = 1024  # what a named axis counts for in the fan-in, so that A depends on no panel's size

MOST_STEPS = 16  # of widening
VERSION = 2  # of the construction

PUBLIC_SEED = b"infl coordinate field"
WIDTH = 16  # sines in each of the two hidden layers
TURN = 1 << 16  # phases are counted in 1/65536 turns
AMPLITUDE = 32767  # the sine table's unit
NONCE, CHACHA_BLOCK = 12, 64  # bytes
BLOCK = 4096  # coordinates in flight; the hidden layers then stay in the second-level cache
PER_WORKER = 1 << 16  # coordinates for which a thread pays

Units = Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class CoordinateNetwork:
    """Weights of the public network, all ``uint16`` and meant modulo 65536."""

    first: np.ndarray  # (WIDTH, 3) periods over the range of a coordinate, -8 … 7
    first_phase: np.ndarray  # (WIDTH, 1)
    second: np.ndarray  # (WIDTH, WIDTH) half turns per unit of sine, -2 … 2
    second_phase: np.ndarray  # (WIDTH, 1)
    carrier: int  # odd periods of the sign's phase over the range of the first coordinate
    sine: np.ndarray  # (TURN,) int16

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate the channels.

        Parameters
        ----------
        u
            Coordinates, ``uint16``, one row an axis. ``(4, n)``

        Returns
        -------
        phase, G, g
            ``phase`` in turns / 65536 (uint16); ``G`` and ``g`` as int32, with standard deviation ``AMPLITUDE · sqrt(8)``.
            The first coordinate moves the phase only, by an odd number of periods: whatever the other three are, the
            phase is uniform on the circle and independent of G and g.
        """
        hidden = self._layer(self.first, self.first_phase, u[1:])
        hidden = self._layer(self.second, self.second_phase, hidden)
        wide = hidden.view(np.int16).astype(np.int32)
        # Three orthogonal rows of a Hadamard matrix as read-outs: uncorrelated channels without a multiplication.
        pair = wide[0::2] + wide[1::2]
        magnitude = (wide[0::2] - wide[1::2]).sum(axis=0)
        additive = (pair[0::2] - pair[1::2]).sum(axis=0)
        fine = ((pair[0::4] + pair[1::4]) - (pair[2::4] + pair[3::4])).sum(axis=0)
        phase = u[0] * np.uint16(self.carrier) + fine.astype(np.uint16)
        return phase, magnitude, additive

    def _layer(self, weight: np.ndarray, offset: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        # Column by column: the integer product has no BLAS, and WIDTH × n stays in the cache.
        phase = weight[:, :1] * inputs[0]  # (WIDTH, n)
        phase += offset
        term = np.empty_like(phase)
        for column in range(1, len(inputs)):
            np.multiply(weight[:, column : column + 1], inputs[column], out=term)
            phase += term
        # mode="clip" only spares numpy the range check: a uint16 is always in range.
        return np.take(self.sine, phase, mode="clip").view(np.uint16)


@cache
def public_network() -> CoordinateNetwork:
    """Expand the published constant into the network: ChaCha20 with key SHA-256(PUBLIC_SEED) and an all-zero nonce."""
    stream = _keystream(hashlib.sha256(PUBLIC_SEED).digest())

    def integers(rows: int, columns: int, low: int, high: int) -> np.ndarray:
        raw = np.frombuffer(stream.update(bytes(2 * rows * columns)), "<u2").astype(np.int64)
        return (raw % (high - low + 1) + low).astype(np.uint16).reshape(rows, columns)

    angle = 2 * np.pi * np.arange(TURN) / TURN
    return CoordinateNetwork(
        first=integers(WIDTH, 3, -8, 7),
        first_phase=integers(WIDTH, 1, 0, TURN - 1),
        second=integers(WIDTH, WIDTH, -2, 2),
        second_phase=integers(WIDTH, 1, 0, TURN - 1),
        carrier=int(integers(1, 1, 0, TURN - 1)[0, 0]) | 1,
        sine=np.rint(AMPLITUDE * np.sin(angle)).astype(np.int16),
    )


@dataclass(frozen=True)
class TensorField:
    """The field over one tensor.

    Parameters
    ----------
    key
        The tensor's key, from :func:`tensor_key`.
    shape
        The tensor's shape.
    units
        Names of the units of the axes that have any, in the tensor's order.
    strength
        From 0 (identity) to 1.
    widening
        By how many steps of ``WIDER`` A is wider than the shape asks.
    """

    key: bytes = field(repr=False)
    shape: tuple[int, ...]
    units: Units
    strength: float
    widening: int = 0

    @property
    def order(self) -> tuple[int, ...]:
        """Axes as the coordinates run over them: the named ones first, the others in C order."""
        axes = range(max(len(self.shape), 1))
        return (*sorted(self.units), *(axis for axis in axes if axis not in self.units))

    @property
    def scale(self) -> float:
        """Standard deviation of A.

        Initial weights shrink with the fan-in as its power -1/2 and an optimiser's steps not at all. What A has to hide
        is their product, so A follows the power between; where weights are larger than that covers, it is widened.
        """
        return shape_scale(self.shape, self.units) * WIDER**self.widening * self.strength**POWER

    def fill(self, write: Callable[[slice, np.ndarray, np.ndarray], None], *, additive: bool = True) -> None:
        """Call ``write(rows, M, A)`` on parts of the first axis of the tensor transposed to :attr:`order`.

        Coordinates are made and used in blocks of ``BLOCK``; M and A (float64) cover one row, or as many as fit a block.
        A is empty unless `additive`. Large tensors are filled by several threads, each in rows of its own.
        """
        n = prod(self.shape)
        if not n:
            return
        n_rows = (self.shape or (1,))[self.order[0]]
        n_workers = min(cores(), n_rows, -(-n // PER_WORKER), 8)
        self._gains, self._identities  # noqa: B018 - once, before the threads
        part = partial(self._fill, write, additive)
        if n_workers == 1:
            return part(range(n_rows))
        size = -(-n_rows // n_workers)
        with ThreadPoolExecutor(n_workers) as pool:
            for _ in pool.map(part, (range(r, min(r + size, n_rows)) for r in range(0, n_rows, size))):
                pass

    def _fill(self, write: Callable[[slice, np.ndarray, np.ndarray], None], additive: bool, over: range) -> None:
        lengths = [(self.shape or (1,))[axis] for axis in self.order]
        per_row = prod(lengths[1:])
        per_stream = prod(lengths[len(self.units) :])
        words = _Words(self._expand("coordinates"), self._identities, per_stream, over.start * per_row)
        network, kappa, unit = public_network(), self.strength * KAPPA, AMPLITUDE * (WIDTH / 2) ** 0.5
        half_width = round(self.strength * TURN / 4)  # of the arc on which the sign flips: strength / 2 of the circle
        step = max(1, BLOCK // per_row)
        for start in over[::step]:
            rows = slice(start, min(start + step, over.stop))
            size = (rows.stop - start) * per_row
            log_m, a = np.empty(size), np.empty(size if additive else 0)
            flip = np.empty(size, dtype=bool)
            for i in range(0, size, BLOCK):
                part = slice(i, min(i + BLOCK, size))
                phase, magnitude, term = network(words.read(part.stop - i))
                np.tanh(magnitude / unit, out=log_m[part])
                flip[part] = phase + np.uint16(half_width) < 2 * half_width
                if additive:
                    np.multiply(term, self.scale / unit, out=a[part])
            log_m = log_m.reshape(-1, *lengths[1:])
            for gain in self._gains:
                log_m += gain[rows] if len(gain) > 1 else gain
            m = np.exp(np.multiply(log_m, kappa, out=log_m), out=log_m)
            np.negative(m, out=m, where=flip.reshape(m.shape))
            write(rows, m, a.reshape(m.shape) if additive else a)

    @cached_property
    def _identities(self) -> bytes:
        """Nonces of the named units, or of their pairs where two axes have names; one of zeros without names."""
        nonces = np.zeros((1, NONCE), dtype=np.uint8)
        for axis in sorted(self.units):
            own = np.frombuffer(b"".join(block[:NONCE] for block in self._blocks[axis]), np.uint8).reshape(-1, NONCE)
            nonces = (nonces[:, None] ^ own).reshape(-1, NONCE)
        return nonces.tobytes()

    @cached_property
    def _blocks(self) -> dict[int, list[bytes]]:
        """32 secret bytes of each named unit: a nonce, then its log-gain."""
        begun = HMAC(self.key, SHA256())
        begun.update(_encode("unit"))
        starts = {axis: _encode(axis) for axis in self.units}
        return {
            axis: [_block(begun, starts[axis] + _encode(name)) for name in names] for axis, names in self.units.items()
        }

    @cached_property
    def _gains(self) -> list[np.ndarray]:
        """Log-gains of each axis's units, ready to be broadcast over the tensor transposed to `order`."""
        if len(self.shape) < 2:
            return []  # a gain per unit would be one more factor per weight
        gains = []
        for place, axis in enumerate(self.order):
            if axis in self.units:
                raw = b"".join(block[-8:] for block in self._blocks[axis])
            else:
                raw = _keystream(self._expand("gain", axis)).update(bytes(8 * self.shape[axis]))
            fraction = (np.frombuffer(raw, "<u8") >> np.uint64(11)) * 2.0**-53
            gain = GAIN * (2 * fraction - 1)
            gains.append(gain.reshape([-1 if other == place else 1 for other in range(len(self.shape))]))
        return gains

    def _expand(self, *use: str | int) -> bytes:
        return _block(HMAC(self.key, SHA256()), _encode(*use))


def shape_scale(shape: Sequence[int], units: Units) -> float:
    """Standard deviation of A at strength 1, without widening."""
    if len(shape) < 2:
        return ALPHA_VECTOR
    lengths = (NAMED_UNITS if axis in units else n for axis, n in enumerate(shape) if axis > 0)
    return ALPHA / max(prod(lengths), 1) ** 0.25


def widening_of(rms: float, shape: Sequence[int], units: Units) -> int:
    """By how many steps A has to be widened to cover weights of a root mean square."""
    steps, scale = 0, shape_scale(shape, units)
    while scale < COVER * rms < inf and steps < MOST_STEPS:
        steps, scale = steps + 1, scale * WIDER
    return steps


def tensor_key(
    subkey: bytes, salt: bytes, name: str, *, strength: float = 1.0, widening: int = 0, version: int = VERSION
) -> bytes:
    """Key of one tensor's streams: another for each strength and each widening, or two locks of one tensor would open it."""
    info = _encode("infl lock 1", name)
    if version > 1:
        info = _encode("infl lock 2", name, struct.pack("<d", strength), widening)
    return HKDF(SHA256(), 32, salt, info).derive(subkey)


def check_units(name: str, shape: Sequence[int], units: Units | None) -> dict[int, list[str]]:
    """Refuse names that do not fit the tensor; return them as lists of strings."""
    checked = {axis: [str(unit) for unit in names] for axis, names in (units or {}).items()}
    for axis, names in checked.items():
        if not 0 <= axis < len(shape):
            raise SettingsError(f"tensor {name!r} has {len(shape)} axes, but units name axis {axis}: count from 0.")
        if len(names) != shape[axis]:
            raise SettingsError(
                f"axis {axis} of tensor {name!r} has {shape[axis]} units, but {len(names)} names: give one each."
            )
        if len(set(names)) != len(names):
            twice = next(n for i, n in enumerate(names) if n in names[:i])
            raise SettingsError(f"axis {axis} of tensor {name!r} names {twice!r} twice: make the names unique.")
    return checked


class _Words:
    """64-bit words, `per_stream` of each nonce's ChaCha20 stream, from word `start` of them all on."""

    def __init__(self, key: bytes, nonces: bytes, per_stream: int, start: int = 0) -> None:
        self._stream, self._nonces, self._per_stream = _keystream(key), nonces, per_stream
        self._begin(*divmod(start, per_stream))

    def _begin(self, number: int, word: int = 0) -> None:
        counter, rest = divmod(8 * word, CHACHA_BLOCK)
        nonce = self._nonces[NONCE * number : NONCE * (number + 1)]
        self._stream.reset_nonce(counter.to_bytes(4, "little") + nonce)
        self._stream.update(bytes(rest))
        self._number, self._left = number, 8 * (self._per_stream - word)

    def read(self, n: int) -> np.ndarray:
        """Give the next n words as coordinates, ``(4, n)`` uint16."""
        size, at = 8 * n, 0
        zeros, buffer = memoryview(bytes(size)), memoryview(bytearray(size))
        while at < size:
            if not self._left:
                self._begin(self._number + 1)
            end = min(size, at + self._left)
            self._stream.update_into(zeros[at:end], buffer[at:end])
            self._left -= end - at
            at = end
        words = np.frombuffer(buffer, "<u2").reshape(-1, 4)
        return np.ascontiguousarray(words.T, dtype=np.uint16)


def _keystream(key: bytes):
    """Keystream of a key's block 0 on, with an all-zero nonce; encrypting zeros reads it."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()


def _block(begun: HMAC, info: bytes) -> bytes:
    """One block of HKDF-Expand (RFC 5869), written as the HMAC that it is: a panel has tens of thousands of names."""
    mac = begun.copy()
    mac.update(info + b"\x01")
    return mac.finalize()


def _encode(*parts: str | int | bytes) -> bytes:
    """Join parts so that no two lists of parts give the same bytes: each with its length before it."""
    joined = b""
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part.to_bytes(4, "little") if isinstance(part, int) else part
        joined += len(raw).to_bytes(4, "little") + raw
    return joined
