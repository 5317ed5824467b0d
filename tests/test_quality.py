"""The quality measures against closed forms."""

import math

import numpy as np
import pytest
import torch

from foreseer.bench.measures import ssim
from foreseer.psnr import psnr
from foreseer.zoo import load_classifier
from foreseer.zoo.digits import load_digits
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES, FRECHET_NOTE, DigitJudge, accuracy, frechet_distance


def with_moments(count, mean, covariance, seed=0):
    """Rows whose sample mean and sample covariance are exactly these (up to rounding)."""
    rows = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = rows - rows.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(rows.T @ rows / (count - 1)), rows.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def judge():
    return DigitJudge()


@pytest.mark.parametrize("offset", [1e-3, 0.1, 0.5])
def test_psnr_of_known_error(offset):
    a = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    b = a.clone()
    b[1] += offset
    b[2, 0, 0, 0] += offset  # one pixel in 64: 10 log10(64) dB better
    expected = 20 * math.log10(2 / offset)
    found = psnr(a, b)
    assert found.shape == (3,)
    assert found.dtype == np.float64
    assert found[0] == math.inf
    np.testing.assert_allclose(found[1:], [expected, expected + 10 * math.log10(64)], rtol=1e-12)


def test_psnr_is_symmetric_and_takes_half_precision():
    a, b = torch.rand(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.testing.assert_array_equal(psnr(a, b), psnr(b, a))
    np.testing.assert_array_equal(psnr(a, b), psnr(a.double(), b.double()))


def test_what_is_not_finite_is_nan_and_leaves_the_other_samples_alone():
    a = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[0, 0, 0, 0], b[1, 0, 0, 0] = math.nan, math.inf
    assert psnr(a, b)[2] == math.inf
    assert np.isnan(psnr(a, b)[:2]).all()
    assert ssim(a, b)[2] == pytest.approx(1)
    assert np.isnan(ssim(a, b)[:2]).all()
    assert np.isnan(psnr(b, b)[1])


def test_ssim_of_equal_is_one_and_falls_with_noise(digits):
    images = digits[2][:16]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ssim(images, images), 1, rtol=1e-12)
    levels = [ssim(images, images + level * noise).mean() for level in (0.05, 0.2, 0.8)]
    assert 1 > levels[0] > levels[1] > levels[2]


def test_ssim_is_that_of_the_four_windows():
    a, b = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    found = []
    for top in (0, 1):
        for left in (0, 1):
            x, y = (image[0, 0, top : top + 7, left : left + 7].numpy().ravel() for image in (a, b))
            variance_x, covariance, _, variance_y = np.cov(x, y).ravel()
            luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
            found.append(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2))
    np.testing.assert_allclose(ssim(a, b), np.mean(found), rtol=1e-9)


def test_frechet_of_gaussians_with_known_moments():
    # Of two 2x2 covariances, tr (C1 C2)^(1/2) = sqrt(tr C1 C2 + 2 sqrt(det C1 C2)): these two do not commute.
    c1 = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    c2 = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    m1, m2 = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)
    product = c1 @ c2
    overlap = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = 8 + float(c1.trace() + c2.trace()) - 2 * overlap
    assert frechet_distance(with_moments(50, m1, c1), with_moments(70, m2, c2, seed=1)) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_diagonal_covariances_in_many_dimensions():
    a, b = torch.linspace(0.1, 4, 64, dtype=torch.float64), torch.linspace(3, 0.01, 64, dtype=torch.float64)
    zero, shift = torch.zeros(64, dtype=torch.float64), torch.full((64,), 0.25, dtype=torch.float64)
    expected = 64 * 0.25**2 + float((a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(with_moments(200, zero, a.diag()), with_moments(300, shift, b.diag(), seed=1)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("count", "size"), [(500, 64), (20, 64), (2, 64), (100, 1)])
def test_frechet_of_identical_sets_is_zero_even_without_full_rank(count, size):
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(0)) * 100
    rows[:, size // 2 :] = rows[:, :1]
    found = frechet_distance(rows, rows)
    assert 0 <= found < 1e-8 * float(rows.double().square().sum())
    assert frechet_distance(torch.ones(5, size), torch.ones(9, size)) == 0


def test_frechet_is_symmetric_and_ignores_order():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 64, generator=generator), 2 * torch.randn(90, 64, generator=generator) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a.flip(0), b) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_the_estimate_falls_with_the_number_of_samples(judge, digits):
    """What FRECHET_MINIMUM_SAMPLES is for: real images, and still a distance, the larger the fewer they are."""
    generator = torch.Generator().manual_seed(0)

    def mean_distance(count):
        draws = [digits[0][torch.randperm(1500, generator=generator)[:count]] for _ in range(5)]
        return float(np.mean([judge.frechet_distance(images) for images in draws]))

    few, enough = mean_distance(32), mean_distance(FRECHET_MINIMUM_SAMPLES)
    noise = judge.frechet_distance(torch.randn(FRECHET_MINIMUM_SAMPLES, 1, 8, 8, generator=generator))
    assert few > 3 * enough
    assert noise > 10 * enough


def test_accuracy():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [math.nan, 0.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.5  # NaN is never right
    assert accuracy(logits[:2], torch.tensor([0, 1])) == 1


def test_judge_on_real_digits(judge, digits):
    _, _, images, labels = digits
    assert judge.accuracy(images, labels) >= 0.97
    assert judge.accuracy(images, (labels + 1) % 10) <= 0.03
    everything = torch.cat([digits[0], images])
    assert judge.frechet_distance(everything) < 1e-6
    assert "not FID" in judge.note == FRECHET_NOTE


def test_judge_clips_and_reports_samples_that_are_not_finite(judge, digits):
    images, labels = digits[2][:8].clone(), digits[3][:8]
    assert judge.frechet_distance(images * 3) == judge.frechet_distance((images * 3).clamp(-1, 1))
    images[0, 0, 0, 0] = math.nan
    assert math.isnan(judge.frechet_distance(images))
    assert judge.accuracy(images, labels) == pytest.approx(7 / 8)


def test_judge_takes_a_classifier_and_a_reference(digits):
    held = digits[2]
    own = DigitJudge(load_classifier(), reference=held)
    assert own.frechet_distance(held) < 1e-6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: psnr(torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8)), r"\(2, 1, 8, 8\) and b \(3, 1, 8, 8\)"),
        (lambda: ssim(torch.zeros(2, 1, 6, 8), torch.zeros(2, 1, 6, 8)), "at least 7"),
        (lambda: frechet_distance(torch.zeros(1, 4), torch.zeros(5, 4)), "at least 2"),
        (lambda: frechet_distance(torch.zeros(3, 4), torch.zeros(5, 6)), "same D"),
        (lambda: frechet_distance(torch.zeros(3, 4), torch.full((5, 4), math.nan)), "features_b holds NaN"),
        (lambda: accuracy(torch.zeros(0, 4), torch.zeros(0)), "at least 1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
