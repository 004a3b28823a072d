"""Results that are tables: what people call their parts, and how they show themselves in a notebook.

They are ordinary data frames. Only the whole table, as it was returned, has a view of its own; any part of it shows itself
as pandas does.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from infl._html import frame, notebook
from infl.errors import DataError, SettingsError

LOWER_IS_BETTER = ("brier", "error", "loss", "mse", "nll")
"""Words in the names of metrics where lower is better."""
METHODS = {
    "pooled": "pooled data",
    "alone": "each site alone",
    "alone_own": "alone, own records",
    "alone_others": "alone, others' records",
    "fedavg": "FedAvg, no lock",
    "infl": "infl, right key",
    "infl_wrong_key": "infl, wrong key",
    "infl_no_key": "infl, no key",
    "published": "published, right key",
    "published_wrong_key": "published, wrong key",
    "published_own_epochs": "published, own epochs",
    "published_own_epochs_wrong_key": "published, own epochs, wrong key",
    "baseline": "simple baseline",
}
"""What people call the methods of :func:`infl.tl.compare`."""


def label_of(name: str) -> str:
    """Make a column's name readable: ``val_balanced_accuracy`` becomes ``balanced accuracy``."""
    return name.removeprefix("val_").replace("_", " ")


def method_label(method: str) -> str:
    """Return what people call a method."""
    return METHODS.get(method, label_of(method))


def number(value: float) -> str:
    """Return a number of three decimals, or few digits; a dash where there is none.

    Examples
    --------
    >>> number(0.12345), number(-0.00001), number(12345.6), number(float("nan"))
    ('0.123', '0.000', '12,346', '–')
    """
    if pd.isna(value):
        return "–"
    shown = f"{round(value, 3) + 0.0:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return shown.replace("-", "−")


def spread(mean: float, sd: float) -> str:
    """Return a mean and a standard deviation."""
    return f"{number(mean)} ± {number(sd)}"


class _Result(pd.DataFrame):
    """A data frame that has a view of its own as long as all of its columns are there."""

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def _seen(self) -> tuple[str, pd.DataFrame] | None:
        """Return a caption and the table as people read it (None: as pandas shows it)."""
        return None

    def _view(self) -> tuple[str, pd.DataFrame] | None:
        try:
            return self._seen() if len(self) else None
        except (KeyError, TypeError, ValueError):  # its user has changed it
            return None

    def __repr__(self) -> str:
        view = self._view()
        return super().__repr__() if view is None else f"{view[0]}\n{view[1].to_string(index=False)}"

    def _repr_html_(self) -> str | None:
        view = self._view()
        if view is None:
            return super()._repr_html_()
        caption, shown = view
        return notebook(frame(shown, caption, numbers=set(shown.columns) - set(WORDS)))


class Comparison(_Result):
    """What :func:`infl.tl.compare` returns: one row per method and metric."""

    def _seen(self) -> tuple[str, pd.DataFrame]:
        n = int(self["n_seeds"].max())
        seeds = "one seed" if n == 1 else f"mean ± standard deviation over {n} seeds"
        caption = f"infl comparison: held-out records, {seeds}; worst site by the first measure"
        return "; ".join(filter(None, (caption, not_computed(self), few_held_out(self)))), by_method(self)

    def by_site(self, metric: str | None = None) -> pd.DataFrame:
        """Return a row per method and site: mean and deviation over seeds, and at which site a method is worst.

        Parameters
        ----------
        metric
            Which (None: the first).

        Returns
        -------
        DataFrame
            ``method``, ``site``, ``mean``, ``sd``, ``n_test`` (the fewest held-out observations of a seed), ``worst``.

        Examples
        --------
        >>> import infl
        >>> table = infl.tl.compare(
        ...     infl.datasets.khan_sites(), target="tumour_class", seeds=1, methods=["fedavg"], rounds=1
        ... )
        >>> rows = table.by_site()
        >>> rows["site"].tolist(), int(rows["worst"].sum())
        (['site_1', 'site_2', 'site_3', 'site_4', 'site_5'], 1)
        """
        found = self._values(metric)
        mine = found[found["site"] != ""].groupby(["method", "site"], sort=False)["value"].agg(["mean", "std"])
        rows = mine.rename(columns={"std": "sd"}).reset_index()
        rows["sd"] = rows["sd"].fillna(0.0).where(rows["mean"].notna())
        rows["n_test"] = rows["site"].map(self.attrs["n_test"])
        sign = -1 if any(word in (metric or self["metric"].iloc[0]) for word in LOWER_IS_BETTER) else 1
        known = (sign * rows["mean"]).dropna()
        rows["worst"] = rows.index.isin(known.groupby(rows["method"]).idxmin())
        return rows

    def difference(self, method: str, other: str, metric: str | None = None) -> dict[str, float]:
        """Return by how much a method's metric exceeds another's on the same held-out observations, with a 95 % interval.

        Parameters
        ----------
        method, other
            Methods of the table.
        metric
            Which (None: the first).

        Returns
        -------
        dict
            ``mean``, ``low``, ``high``, ``n`` (pairs). Splits share observations, so the interval is wider than their spread alone
            (Nadeau and Bengio, 2003); with ``holdout="site"`` pairs are sites, and the interval is over sites.

        Examples
        --------
        >>> import infl
        >>> table = infl.tl.compare(
        ...     infl.datasets.khan_sites(), target="tumour_class", seeds=3, methods=["fedavg", "baseline"], rounds=1
        ... )
        >>> found = table.difference("fedavg", "baseline")
        >>> found["n"], bool(found["low"] < found["mean"] < found["high"])
        (3, True)
        """
        from scipy import stats

        found, by_hospital = self._values(metric), self.attrs["holdout"] == "site"
        for name in (method, other):
            if name not in set(found["method"]):
                raise SettingsError(
                    f"method {name!r} is not in the table: it has {', '.join(dict.fromkeys(self['method']))}"
                )
        rows = found[(found["site"] != "") == by_hospital]
        wide = rows.pivot_table(index="site" if by_hospital else "seed", columns="method", values="value")
        pairs = (wide[method] - wide[other]).dropna()
        n, share = len(pairs), self.attrs["test_share"]
        if n < 2:
            raise DataError(f"{n} pair of {method!r} and {other!r} has no interval: compare with more seeds=")
        shared = 0.0 if by_hospital else share / (1 - share)
        half = float(stats.t.ppf(0.975, n - 1) * pairs.std() * (1 / n + shared) ** 0.5)
        mean = float(pairs.mean())
        return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}

    def _values(self, metric: str | None) -> pd.DataFrame:
        """Return the records of one metric."""
        known = list(dict.fromkeys(self["metric"]))
        metric = known[0] if metric is None else metric
        if metric not in known:
            raise SettingsError(f"metric={metric!r} is not in the table: it has {', '.join(known)}")
        records = pd.DataFrame(self.attrs["values"])
        return records[records["metric"] == metric]


FEW = 10
"""Held-out observations below which what a site has of its own says little."""


def few_held_out(table: pd.DataFrame) -> str:
    """Return in words at which sites too few observations were held out to judge by them alone.

    Examples
    --------
    >>> table = pd.DataFrame({"metric": ["auroc"]})
    >>> table.attrs["n_test"] = {"a": 4, "b": 12, "c": 9}
    >>> few_held_out(table)
    'fewer than 10 held-out records, which say little by themselves: a (4), c (9)'
    """
    few = [f"{site} ({n})" for site, n in table.attrs.get("n_test", {}).items() if n < FEW]
    return f"fewer than {FEW} held-out records, which say little by themselves: {', '.join(few)}" if few else ""


def not_computed(table: pd.DataFrame) -> str:
    """Return in words what :func:`infl.tl.compare` could not compute at a site by itself.

    Examples
    --------
    >>> table = pd.DataFrame({"metric": ["macro_f1", "auroc"]})
    >>> table.attrs["not_computed"] = {"a": ["auroc"], "b": ["macro_f1", "auroc"], "c": ["auroc"]}
    >>> not_computed(table)
    'not computed: auroc at a, c; anything at b'
    """
    n_metrics, at = table["metric"].nunique(), dict[str, list[str]]()
    for site, metrics in table.attrs.get("not_computed", {}).items():
        what = "anything" if len(metrics) == n_metrics else ", ".join(map(label_of, metrics))
        at.setdefault(what, []).append(site)
    parts = [f"{what} at {', '.join(sites)}" for what, sites in at.items()]
    return f"not computed: {'; '.join(parts)}" if parts else ""


class Findings(_Result):
    """What :func:`infl.tl.audit` returns: one row per finding."""

    def _seen(self) -> tuple[str, pd.DataFrame]:
        return f"infl audit: {verdict(self)}", by_finding(self)


WORDS = ("method", "attack", "verdict", "by", "measured")
"""Columns of the two views that are no numbers."""
NUMBERS = ("got (95 %)", "chance", "unprotected")
"""Columns of :func:`by_finding` that are numbers."""


def bare(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without its ``attrs``: pandas copies them, record by record, with each part that is taken of it."""
    table = table.copy(deep=False)
    table.attrs = {}
    return table


def by_method(table: pd.DataFrame, metrics: list[str] | None = None) -> pd.DataFrame:
    """Return a comparison as people read it: a row per method, a column per metric, then the worst site for the first metric.

    Examples
    --------
    >>> long = pd.DataFrame({"method": ["infl"], "metric": ["auroc"], "mean": [0.9], "sd": [0.1], "worst_site": [0.8]})
    >>> by_method(long).to_dict("records")
    [{'method': 'infl, right key', 'auroc': '0.900 ± 0.100', 'worst site': '0.800'}]
    """
    table = bare(table)
    metrics = metrics or list(dict.fromkeys(table["metric"]))
    rows = []
    for method, part in table.groupby("method", sort=False):
        cells = part.set_index("metric")
        known = [m for m in metrics if m in cells.index]
        row = {"method": method_label(str(method))}
        row |= {label_of(m): _over_seeds(cells.loc[m]) if m in known else "" for m in metrics}
        if "worst_site" in cells:
            worst = number(cells.loc[metrics[0], "worst_site"]) if metrics[0] in known else ""
            row["worst site"] = worst
        rows.append(row)
    return pd.DataFrame(rows)


def _over_seeds(row: pd.Series) -> str:
    """Return a mean and its deviation over seeds; of one seed there is none."""
    return number(row["mean"]) if row.get("n_seeds") == 1 and not row["sd"] > 0 else spread(row["mean"], row["sd"])


def by_finding(table: pd.DataFrame) -> pd.DataFrame:
    """Return an audit as people read it: a row per finding, in words, with the interval beside the value."""
    values = [
        number(row["value"]) + (f" ({number(row['low'])} to {number(row['high'])})" if "low" in row else "")
        for _, row in table.iterrows()
    ]
    shown = {
        "attack": table["attack"].map(label_of),
        "verdict": table["status"],
        "by": table["against"].map(label_of),
        "measured": table["metric"].map(label_of),
        "got (95 %)": values,
        "chance": table["chance"].map(number),
        "unprotected": table["control"].map(number),
    }
    return pd.DataFrame(shown)


def verdict(table: pd.DataFrame) -> str:
    """Return in a few words what an audit found.

    Examples
    --------
    >>> verdict(pd.DataFrame({"attack": ["a", "a", "b"], "status": ["holds", "leak", "holds"]}))
    'Attacked in 2 ways; findings: 2 “holds”, 1 “leak”.'
    """
    counts = ", ".join(f"{n} “{status}”" for status, n in table["status"].value_counts().items())
    n = table["attack"].nunique()
    return f"Attacked in {n} way{'s' if n != 1 else ''}; findings: {counts}."
