"""Which gene sets, pathways or transcription factors a table of differences speaks for: decoupler's tests, without any sum."""

from __future__ import annotations

import pandas as pd

from infl._parameters import Choice, Text, Whole, door
from infl.data.columns import shortlist
from infl.errors import DataError, MissingExtraError

METHODS = ("ulm", "mlm", "ora", "gsea", "waggr", "zscore", "viper")


@door(method=Choice(METHODS), column=Text(), tmin=Whole(1))
def enrich(
    table: pd.DataFrame, net: pd.DataFrame, *, method: str = "ulm", column: str = "t_value", tmin: int = 5
) -> pd.DataFrame:
    """Test sets of features on a table of :func:`infl.tl.de`, by a method of decoupler.

    The table is the same at every site, so nothing is summed.

    Parameters
    ----------
    table
        What :func:`infl.tl.de` returned.
    net
        Sets, one row per member: ``source`` names the set, ``target`` the feature; ``weight`` where members have one. decoupler's
        ``op`` has some, such as pathways and transcription factors.
    method
        Which of decoupler's: ``"ulm"``, ``"mlm"``, ``"ora"``, ``"gsea"``, ``"waggr"``, ``"zscore"`` or ``"viper"``.
    column
        Column of the table that is tested.
    tmin
        Least number of a set's members in the table.

    Returns
    -------
    One row per set, smallest p-value first: ``source``, ``score``, ``adj_p_value`` (corrected for the number of sets), ``n`` members.

    Raises
    ------
    infl.errors.DataError
        A table lacks a column, or no set has enough members in it.
    infl.errors.MissingExtraError
        decoupler is not installed.

    References
    ----------
    Badia-i-Mompel et al. (2022), decoupleR: ensemble of computational methods to infer biological activities from omics data.
    Bioinformatics Advances 2:vbac016.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame({"variable": ["TP53", "MDM2"], "t_value": [3.0, 2.0]})
    >>> infl.tl.enrich(table, pd.DataFrame({"source": ["p53"], "target": ["EGFR"]}))
    Traceback (most recent call last):
    infl.errors.DataError: no set has 5 members among the 2 features of the table (the most: 0, of 'p53'): lower tmin=, or use the names of ...
    """
    _check_columns(table, ["variable", column], "table", "give what infl.tl.de returned")
    _check_columns(net, ["source", "target"], "net", "one row per member of a set")
    values = table.set_index("variable")[column].astype(float).dropna()
    members = net[net["target"].isin(values.index)].groupby("source")["target"].nunique()
    members = members.reindex(pd.unique(net["source"]), fill_value=0)
    if members.max() < tmin:
        raise DataError(
            f"no set has {tmin} members among the {len(values)} features of the table (the most: {members.max()}, of "
            f"{members.idxmax()!r}): lower tmin=, or use the names of features that the table has, such as {values.index[0]!r}"
        )
    try:
        import decoupler
    except ImportError as error:
        raise MissingExtraError("infl.tl.enrich needs decoupler: pip install 'infl[enrich]'") from error
    found = getattr(decoupler.mt, method)(values.to_frame("score").T, net, tmin=tmin)
    scores, p_values = found if isinstance(found, tuple) else (found, None)
    result = pd.DataFrame({"source": scores.columns, "score": scores.iloc[0].to_numpy()})
    result["adj_p_value"] = float("nan") if p_values is None else p_values.iloc[0].to_numpy()
    result["n"] = members.reindex(result["source"]).to_numpy()
    by_size = result["score"].abs()
    order = pd.DataFrame({"p": result["adj_p_value"], "size": -by_size}).sort_values(["p", "size"]).index
    return result.loc[order].reset_index(drop=True)


def _check_columns(table: pd.DataFrame, columns: list[str], name: str, what: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{name}= is {type(table).__name__}, no table: {what}")
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"{name}= has no column {missing[0]!r}: {what}; it has {shortlist(list(table))}")
    if table.empty:
        raise DataError(f"{name}= is empty: {what}")
