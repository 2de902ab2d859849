"""Gabor functions fitted to atoms: where an edge detector looks, how it is turned, and how fine it is.

A Gabor function is a wave under a Gaussian window, what simple cells of the visual cortex respond to best
(Marčelja 1980; Daugman 1985). All atoms are fitted at once by the method of Levenberg (1944) and Marquardt (1963).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from chainrule.errors import ChainruleError

# What pixels cannot tell apart is kept out of the fit: windows narrower than a pixel or much wider than the atom, and
# waves that turn faster than pixels can show, or so slowly that a window holds the beginning of one: such an edge is
# the same at half the frequency and twice the amplitude.
NARROWEST = 0.4  # pixels
WIDEST = 2.0  # sides of the atom; no centre is farther from the atom than half a side
SLOWEST = 0.1  # cycles in a standard deviation of the window
FASTEST = 0.5  # cycles/pixel along a row or column

# Every start has one of the strongest frequencies, and the window that a power of the energy tells.
PEAKS, POWERS = 5, (1, 2, 4)
STARTS = PEAKS * len(POWERS)
SHORT, LONG = 25, 100  # steps from every start, and from the best one
PIXELS = 1 << 18  # of all starts that are fitted side by side: eight derivatives each are kept
TINY = 1e-12  # added to the curvature: where an atom is all zeros it has none
EPSILON = 1e-24  # of the energy of an atom: what rounding leaves of the variance of equal numbers


@dataclass(frozen=True)
class GaborFits:
    """A Gabor function for each of K atoms; every field is an array (K,) float64.

    amplitude · exp(−(s/width_across)²/2 − (t/width_along)²/2) · cos(2π · frequency · s + phase)

    s and t are the distances of a pixel from (x, y) across and along the stripes; s grows to the right (downwards
    where stripes lie level), t along the orientation.

    Attributes:
        x, y: the centre in pixels; (0, 0) is the middle of the top left pixel, y grows downwards. It may lie
            outside of the atom.
        orientation: of the stripes, radians in [0, π), anticlockwise as one sees them: 0 is level, π/2 upright.
        frequency: cycles/pixel across the stripes; at least 0.1/width_across, as for a plain edge or a blob.
        phase: radians in (−π, π]; 0 or π is a bar in the middle of the window, ±π/2 an edge.
        width_across, width_along: standard deviations of the window in pixels, across and along the stripes.
        amplitude: 0 or more, in units of the atom.
        r2: 1 − Σ(atom − fit)² / Σ(atom − mean)²: 1 is perfect; 0 for an atom that is all one number.
    """

    x: np.ndarray
    y: np.ndarray
    orientation: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray
    width_across: np.ndarray
    width_along: np.ndarray
    amplitude: np.ndarray
    r2: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index) -> GaborFits:
        """Those at `index`: a mask (K,), such as fits.r2 > 0.8, or positions."""
        return GaborFits(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def draw(self, height: int, width: int) -> np.ndarray:
        """The functions at the pixels of an atom, (K, height, width)."""
        wave = self.amplitude * np.cos(self.phase), -self.amplitude * np.sin(self.phase)
        widths = np.log(self.width_across), np.log(self.width_along)
        params = np.stack([self.x, self.y, self.orientation, self.frequency, *widths, *wave], 1)
        return gabor(torch.from_numpy(params), Grid.of(height, width))[0].view(-1, height, width).numpy()


def fit_gabors(atoms: np.ndarray) -> GaborFits:
    """The Gabor function of least squared distance to each of the atoms (K, h, w), as far as it can be found.

    Several starts are tried for each atom: its strongest frequencies, with windows from the centre and the
    covariance of its energy. The result depends on nothing else, and every atom is fitted for itself.

    Raises:
        ChainruleError: the atoms are no (K, h, w) array of finite numbers of at least 2 × 2 pixels.

    Example:
        >>> y, x = np.mgrid[:12, :12]
        >>> edge = np.exp(-((x - 5) ** 2 + (y - 6) ** 2) / 8) * np.sin(2 * np.pi * 0.2 * (x - 5))
        >>> fits = fit_gabors(edge[None])
        >>> [round(float(v[0]), 3) for v in (fits.x, fits.y, fits.orientation, fits.frequency, fits.r2)]
        [5.0, 6.0, 1.571, 0.2, 1.0]
    """
    atoms = np.asarray(atoms, np.float64)
    if atoms.ndim != 3 or min(atoms.shape[1:]) < 2 or not np.isfinite(atoms).all():
        raise ChainruleError(
            f"atoms of shape {atoms.shape}: a Gabor function is fitted to finite numbers (atoms, height, width), "
            "at least 2 × 2; average colours first"
        )
    height, width = atoms.shape[1:]
    some = max(1, PIXELS // (STARTS * height * width))  # atoms at a time
    parts = [fit_some(torch.from_numpy(atoms[i : i + some])) for i in range(0, len(atoms), some)]
    params, r2 = (
        (torch.cat(p).numpy() for p in zip(*parts, strict=True)) if parts else (np.zeros((0, 8)), np.zeros(0))
    )
    return GaborFits(*[*canonical(params), r2])


def fit_some(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """(parameters (K, 8), R² (K,)) of atoms (K, h, w) that are fitted side by side."""
    count, height, width = atoms.shape
    scale = atoms.abs().amax((1, 2), keepdim=True)
    scaled = atoms / torch.where(scale > 0, scale, 1.0)
    target, grid = scaled.flatten(1), Grid.of(height, width)
    first = starts(scaled, grid)  # (K, S, 8)
    tried, errors = improve(first.flatten(0, 1), target.repeat_interleave(first.shape[1], 0), grid, SHORT)
    best = errors.view(count, -1).argmin(1)
    params = tried.view_as(first)[torch.arange(count), best]
    params, errors = improve(params, target, grid, LONG)
    params[:, 6:] *= scale[:, 0]
    spread = (target - target.mean(1, keepdim=True)).square().sum(1)
    varied = spread > EPSILON * target.square().sum(1)
    return params, torch.where(varied, 1 - errors / spread, 0.0)


@dataclass(frozen=True)
class Grid:
    """The pixels of an atom: `right` and `down` (P,) from its top left one."""

    height: int
    width: int
    right: Tensor
    down: Tensor

    @classmethod
    def of(cls, height: int, width: int) -> Grid:
        down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return cls(height, width, right.flatten().double(), down.flatten().double())

    @property
    def side(self) -> int:
        return max(self.height, self.width)


# Parameters (B, 8) of a fit: x, y, orientation, frequency, log width across, log width along, and a, b of the wave
# a·cos + b·sin, in which the fit is linear.


def gabor(params: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The functions (B, P) and their derivatives by the parameters (B, P, 8)."""
    x, y, orientation, f, wide, long, a, b = params[:, :, None].unbind(1)
    sine, cosine = orientation.sin(), orientation.cos()
    right, down = grid.right - x, grid.down - y
    s, t = right * sine + down * cosine, right * cosine - down * sine
    across, along = s / wide.exp(), t / long.exp()
    window = (-(across.square() + along.square()) / 2).exp()
    c, n = (2 * math.pi * f * s).cos(), (2 * math.pi * f * s).sin()
    wave, slope = a * c + b * n, 2 * math.pi * (b * c - a * n)
    value = window * wave
    by_s = window * slope * f - value * across / wide.exp()
    by_t = -value * along / long.exp()
    by_x, by_y, turn = -by_s * sine - by_t * cosine, -by_s * cosine + by_t * sine, by_s * t - by_t * s
    widths = value * across.square(), value * along.square()
    return value, torch.stack([by_x, by_y, turn, window * slope * s, *widths, window * c, window * n], -1)


def improve(params: Tensor, target: Tensor, grid: Grid, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt from `params` (B, 8) to the targets (B, P): better ones, and their squared errors (B,).

    Every row has its own damping, and takes a step only if that lowers its error.
    """
    damping = torch.full_like(params[:, 0], 1e-2)
    value, slopes = gabor(params, grid)
    errors = (target - value).square().sum(1)
    for _ in range(steps):
        gradient = (slopes.mT @ (target - value)[:, :, None]).squeeze(-1)
        curvature = slopes.mT @ slopes  # (B, 8, 8)
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        damped = curvature + torch.diag_embed(damping[:, None] * diagonal + TINY)
        step, _ = torch.linalg.solve_ex(damped, gradient)
        trial = bounded(params + step, grid)
        new_value, new_slopes = gabor(trial, grid)
        new_errors = (target - new_value).square().sum(1)
        better = new_errors < errors
        params = torch.where(better[:, None], trial, params)
        value = torch.where(better[:, None], new_value, value)
        slopes = torch.where(better[:, None, None], new_slopes, slopes)
        errors = torch.where(better, new_errors, errors)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-12, 1e12)
    return params, errors


def bounded(params: Tensor, grid: Grid) -> Tensor:
    """The parameters, each within what an atom can tell."""
    x, y, orientation, f, wide, long, a, b = params.unbind(1)
    fastest = FASTEST / torch.maximum(orientation.sin().abs(), orientation.cos().abs())
    low, high = math.log(NARROWEST), math.log(WIDEST * grid.side)
    wide = wide.clamp(low, high)
    return torch.stack(
        [
            x.clamp(-grid.width / 2, 1.5 * grid.width),
            y.clamp(-grid.height / 2, 1.5 * grid.height),
            orientation,
            f.maximum(SLOWEST / wide.exp()).minimum(fastest),
            wide,
            long.clamp(low, high),
            a,
            b,
        ],
        1,
    )


def starts(atoms: Tensor, grid: Grid) -> Tensor:
    """Where to begin with atoms (K, h, w): parameters (K, S, 8)."""
    across, down = peaks(atoms)  # (K, F)
    orientation, f = torch.atan2(across, down), torch.hypot(across, down)
    sine, cosine = orientation.sin(), orientation.cos()
    target, found = atoms.flatten(1), []
    for power in POWERS:
        x, y, xx, xy, yy = moments(target.abs() ** (2 * power), grid)
        # the energy of a window has half its variance, the square of the energy a quarter
        wide = 2 * power * (xx * sine**2 + 2 * xy * sine * cosine + yy * cosine**2)
        long = 2 * power * (xx * cosine**2 - 2 * xy * sine * cosine + yy * sine**2)
        nothing = torch.zeros_like(f)
        logs = [v.clamp(min=NARROWEST**2).log() / 2 for v in (wide, long)]
        found.append(torch.stack([x + nothing, y + nothing, orientation, f, *logs, nothing, nothing], -1))
    params = torch.cat(found, 1).flatten(0, 1)
    return with_wave(bounded(params, grid), target.repeat_interleave(STARTS, 0), grid).view(
        len(atoms), STARTS, 8
    )


def with_wave(params: Tensor, target: Tensor, grid: Grid) -> Tensor:
    """The parameters with the best a and b for their targets, by least squares."""
    basis = gabor(params, grid)[1][:, :, 6:]
    damped = basis.mT @ basis + 1e-6 * torch.eye(2, dtype=basis.dtype)
    wave = torch.linalg.solve(damped, basis.mT @ target[:, :, None]).squeeze(-1)
    return torch.cat([params[:, :6], wave], 1)


def moments(weight: Tensor, grid: Grid) -> list[Tensor]:
    """Centre x, y and covariance xx, xy, yy of weights (K, P), each (K, 1)."""
    total = weight.sum(1, keepdim=True)
    weight = torch.where(total > 0, weight / total, 1 / weight.shape[1])
    x, y = ((weight * v).sum(1, keepdim=True) for v in (grid.right, grid.down))
    right, down = grid.right - x, grid.down - y
    return [x, y, *((weight * v).sum(1, keepdim=True) for v in (right**2, right * down, down**2))]


def peaks(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest frequencies of atoms (K, h, w), in cycles/pixel to the right and down, each (K, F)."""
    height, width = atoms.shape[1:]
    size = 4 * max(height, width)  # zeros around the atom: frequencies in between
    power = torch.fft.rfft2(atoms, s=(size, size)).abs().flatten(1)
    down, across = torch.meshgrid(torch.fft.fftfreq(size), torch.fft.rfftfreq(size), indexing="ij")
    down, across = down.flatten().double(), across.flatten().double()
    power = torch.where(torch.hypot(down, across) < 2 / size, -1.0, power)
    chosen = []
    for _ in range(PEAKS):
        chosen.append(power.argmax(1))
        # what lies within a cycle in the atom belongs to the same peak, on both sides of 0
        u, v = across[chosen[-1], None], down[chosen[-1], None]
        apart = torch.minimum(torch.hypot(across - u, down - v), torch.hypot(across + u, down + v))
        power = torch.where(apart < 4 / size, -1.0, power)
    return torch.stack([across[i] for i in chosen], 1), torch.stack([down[i] for i in chosen], 1)


def canonical(params: np.ndarray) -> list[np.ndarray]:
    """x, y, orientation, frequency, phase, widths across and along, amplitude of parameters (K, 8), in the ranges
    that `GaborFits` states: half a turn of the stripes is the same function with the phase reversed."""
    x, y, orientation, f, wide, long, a, b = params.T
    turned = np.floor(orientation / np.pi)
    rest = orientation - np.pi * turned
    turned, rest = turned + (rest >= np.pi), np.where(rest >= np.pi, 0.0, rest)  # rounded up to a whole turn
    phase = np.arctan2(-b, a) * np.where(turned % 2, -1, 1)
    phase = np.where(phase <= -np.pi, np.pi, phase)
    return [x, y, rest, f, phase, np.exp(wide), np.exp(long), np.hypot(a, b)]
