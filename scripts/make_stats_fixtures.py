"""Makes tests/fixtures/stats.json: what SciPy says about the statistics that `taper` computes itself.

    pip install scipy numpy && python scripts/make_stats_fixtures.py

Every number in the file comes from SciPy (or from a direct NumPy formula where SciPy has none, which is named); nothing
of it was computed by taper.
"""

import json
import pathlib

import numpy as np
import scipy
from scipy import integrate, optimize, special, stats

rng = np.random.default_rng(20240607)


def list_of(array):
    return [float(value) for value in array]


def special_values():
    rows = {"gammaln": [], "betainc": [], "erfc": [], "t_two_sided": [], "t_critical": [], "nct_cdf": []}
    for x in [0.1, 0.5, 1.0, 1.5, 2.5, 7.0, 33.3, 500.0]:
        rows["gammaln"].append([x, float(special.gammaln(x))])
    for a, b, x in [(0.5, 0.5, 0.3), (1, 0.5, 0.9), (2.5, 0.5, 0.01), (10, 0.5, 0.97), (40, 3, 0.9), (500, 0.5, 0.999)]:
        rows["betainc"].append([a, b, x, float(special.betainc(a, b, x))])
    for x in [-3.0, -0.4, 0.0, 0.1, 0.9, 1.99, 2.01, 3.3, 5.0, 9.0]:
        rows["erfc"].append([x, float(special.erfc(x))])
    for t, df in [(0.1, 1), (1.0, 1), (12.7, 1), (2.0, 2), (4.3, 2.0), (30.0, 2), (2.5, 3.7), (1e-4, 5), (8.0, 9), (1.96, 1000), (40.0, 20)]:
        rows["t_two_sided"].append([t, df, float(2 * stats.t.sf(t, df))])
    for alpha, df in [(0.05, 1), (0.05, 2), (0.05 / 3, 2), (0.05 / 8, 4), (0.01, 2.6), (0.05, 30), (1e-6, 3), (0.5, 7)]:
        rows["t_critical"].append([alpha, df, float(stats.t.isf(alpha / 2, df))])
    for t, df, delta in [(4.302652729911275, 2, 3.0), (2.776, 4, 2.0), (-2.776, 4, 2.0), (12.706, 1, 10.0), (2.05, 28, 3.3), (7.0, 2.5, 6.0), (2.0, 200, 1.0)]:
        rows["nct_cdf"].append([t, df, delta, float(stats.nct.cdf(t, df, delta))])
    return rows


def comparisons():
    cases = []
    for n in [2, 3, 5, 12]:
        a = np.round(rng.normal(3.2, 0.02, n), 6)
        b = np.round(a + rng.normal(-0.01, 0.01, n), 6)
        paired = stats.ttest_rel(b, a)
        welch = stats.ttest_ind(b, a, equal_var=False)
        cases.append(
            {
                "baseline": list_of(a),
                "treated": list_of(b),
                "paired": {
                    "t": float(paired.statistic),
                    "p": float(paired.pvalue),
                    "interval": list_of(paired.confidence_interval(0.95)),
                },
                "welch": {
                    "t": float(welch.statistic),
                    "df": float(welch.df),
                    "p": float(welch.pvalue),
                    "interval": list_of(welch.confidence_interval(0.95)),
                },
            }
        )
    a, b = np.round(rng.normal(3.0, 0.1, 2), 6), np.round(rng.normal(3.1, 0.01, 7), 6)
    welch = stats.ttest_ind(b, a, equal_var=False)
    unequal = {"baseline": list_of(a), "treated": list_of(b), "df": float(welch.df), "p": float(welch.pvalue)}
    unequal["pooled_p"] = float(stats.ttest_ind(b, a).pvalue)
    return {"cases": cases, "unequal": unequal}


def holm():
    """SciPy has no Holm: the definition (reject the k-th smallest while p * (m - k) <= alpha), as adjusted p values."""
    out = []
    for p in [[0.01, 0.04, 0.03], [0.5], [0.2, 0.001, 0.2, 0.013, 0.9], [0.04, 0.04]]:
        p = np.array(p)
        order = np.argsort(p, kind="stable")
        adjusted = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
        back = np.empty_like(adjusted)
        back[order] = adjusted
        out.append([list_of(p), list_of(back)])
    return out


def power():
    """Power of the paired t test by scipy.integrate over scipy.stats.chi (scipy.stats.nct gives NaN for large shifts)."""

    def power_of(effect, se, df, alpha):
        crit, delta = stats.t.isf(alpha / 2, df), effect / se

        def called(chi):
            s = chi / np.sqrt(df)
            return stats.chi.pdf(chi, df) * (stats.norm.cdf(delta - crit * s) + stats.norm.cdf(-crit * s - delta))

        middle = stats.chi.mean(df)
        return sum(integrate.quad(called, a, b, epsabs=1e-12, limit=200)[0] for a, b in [(0, middle), (middle, middle + 12)])

    rows = []
    for n, alpha in [(2, 0.05), (3, 0.05), (3, 0.05 / 3), (5, 0.05 / 3), (20, 0.05)]:
        df, se = n - 1, 0.02 / np.sqrt(n)
        smallest = optimize.brentq(lambda effect: power_of(effect, se, df, alpha) - 0.8, 1e-3, 5.0)
        rows.append({"n": n, "alpha": alpha, "deviation": 0.02, "power_at_0.03": float(power_of(0.03, se, df, alpha)), "smallest": float(smallest)})
    needed = []
    for effect, deviation, alpha in [(0.01, 0.01, 0.05), (0.01, 0.03, 0.05), (0.1, 0.01, 0.05 / 3), (0.01, 0.02, 0.05 / 4)]:
        n = 2
        while True:
            if power_of(effect, deviation / np.sqrt(n), n - 1, alpha) >= 0.8:
                break
            n += 1
        needed.append([effect, deviation, alpha, n])
    return {"rows": rows, "needed": needed}


def components():
    """Two-way analysis of variance by projection matrices in NumPy, not by the means that taper uses."""
    table = np.round(3.0 + rng.normal(0, 0.03, (4, 1)) + rng.normal(0, 0.01, (1, 3)) + rng.normal(0, 0.002, (4, 3)), 6)
    rows, columns = table.shape
    y = table.reshape(-1)
    mean = np.full((y.size, y.size), 1 / y.size)
    by_row = np.kron(np.eye(rows), np.full((columns, columns), 1 / columns))
    by_column = np.kron(np.full((rows, rows), 1 / rows), np.eye(columns))
    ms = lambda projector, df: float(y @ projector @ y) / df
    ms_rows = ms(by_row - mean, rows - 1)
    ms_columns = ms(by_column - mean, columns - 1)
    ms_rest = ms(np.eye(y.size) - by_row - by_column + mean, (rows - 1) * (columns - 1))
    return {
        "table": [list_of(row) for row in table],
        "rows": (ms_rows - ms_rest) / columns,
        "columns": (ms_columns - ms_rest) / rows,
        "interaction": ms_rest,
    }


def power_law():
    """Chinchilla's five coefficients by scipy.optimize.least_squares from many starts, on losses made with noise."""
    sizes, tokens = np.array([1e5, 3e5, 1e6, 3e6]), np.array([1e7, 4e7, 2e8])
    n, d = [grid.reshape(-1) for grid in np.meshgrid(sizes, tokens)]
    loss = np.round(1.7 + 120 / n**0.36 + 300 / d**0.3 + rng.normal(0, 0.004, n.size), 6)

    def residuals(p):
        e, a, alpha, b, beta = np.exp(p)
        return e + a / (n / 1e6) ** alpha + b / (d / 1e8) ** beta - loss

    starts = [np.log([e, a, alpha, b, beta]) for e in (0.5, 2) for a in (0.3, 2) for alpha in (0.2, 0.6) for b in (0.3, 2) for beta in (0.2, 0.6)]
    fits = [optimize.least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14) for start in starts]
    best = min(fits, key=lambda fit: fit.cost)
    e, a, alpha, b, beta = np.exp(best.x)
    sizes_only = np.array([1e5, 2e5, 5e5, 1e6, 4e6])
    losses_only = np.round(2.1 + 30 / sizes_only**0.3 + rng.normal(0, 0.003, 5), 6)
    (e1, a1, alpha1), _ = optimize.curve_fit(lambda n, e, a, alpha: e + a * (n / 1e6) ** -alpha, sizes_only, losses_only, p0=[2, 1, 0.3], xtol=1e-14, ftol=1e-14)
    x, y = np.log(np.array([1e5, 2e5, 5e5, 1e6, 3e6])), np.array([3.1, 2.95, 2.9, 2.93, 3.2])
    c2, c1, _ = np.polyfit(x, y, 2)
    return {
        "points": [list_of(row) for row in zip(n, d, loss)],
        "fit": {"e": e, "a": a * 1e6**alpha, "alpha": alpha, "b": b * 1e8**beta, "beta": beta, "rms": float(np.sqrt(2 * best.cost / n.size))},
        "sizes": [list_of(row) for row in zip(sizes_only, losses_only)],
        "sizes_fit": {"e": float(e1), "a": float(a1 * 1e6**alpha1), "alpha": float(alpha1)},
        "parabola": {"points": [list_of(row) for row in zip(np.exp(x), y)], "best": float(np.exp(-c1 / (2 * c2)))},
    }


def main():
    out = {
        "about": f"made by scripts/make_stats_fixtures.py with SciPy {scipy.__version__}, NumPy {np.__version__}",
        "special": special_values(),
        "compare": comparisons(),
        "holm": holm(),
        "power": power(),
        "components": components(),
        "power_law": power_law(),
    }
    path = pathlib.Path(__file__).parent.parent / "tests" / "fixtures" / "stats.json"
    path.write_text(json.dumps(out, indent=1) + "\n")
    print(f"wrote {path.name}, {path.stat().st_size} bytes")


main()
