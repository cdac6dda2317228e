"""Figures of what decisions cost: risks, ranks, shifts, and the images that are mistaken. Each
function returns a matplotlib Figure; nothing here needs a model.
"""

from matplotlib.figure import Figure

from ood_suite import selective

PANEL = (3.4, 3.0)  # inches
DRAWN_SETS = 5  # beyond which panels would not be read


def risk_coverage(values, correct):
    """Risk against coverage: a panel of the mistakes on ID data alone, and one for each OOD set.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}. correct: bool (n_id,).
    """
    sets = list(next(iter(values.values()))[1])[:DRAWN_SETS]
    figure, panels = _panels(1 + len(sets))
    for axes, ood in zip(panels, [None, *sets], strict=True):
        for name, (own, others) in values.items():
            alone = ood is None
            found = (
                selective.curve(own, ~correct)
                if alone
                else selective.scod(own, others[ood], correct)
            )
            label = f"{name} ({selective.augrc(found):.3f})"
            axes.plot(found.coverage, found.risk, linewidth=1, label=label)
        title = "ID alone: mistakes" if alone else f"ID and {ood}, half and half"
        axes.set(xlabel="share accepted", ylabel="errors among the accepted", ylim=(0, None))
        axes.set_title(title, fontsize=9)
        axes.legend(title="AUGRC", frameon=False, fontsize=6, title_fontsize=7)
    return figure


def _panels(count):
    size = (PANEL[0] * count, PANEL[1])
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]
