"""Medians, ratios within rounds, and their tables in Markdown."""

from statistics import median


def values(rounds, name, key):
    """Returns the values of a figure in the rounds that have it."""
    return [figures[name][key] for figures in rounds if key in figures.get(name, {})]


def ratios(rounds, subject, other, key):
    """Returns subject ÷ other for each round that has both."""
    pairs = ((figures.get(subject, {}).get(key), figures.get(other, {}).get(key)) for figures in rounds)
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]


def medians_table(rounds, names, figures):
    """Returns a table of the median of each figure for each program."""
    rows = [[title(figure), figure.unit, *(
        number(values(rounds, name, figure.key)) for name in names)] for figure in figures]
    return markdown(["Figure", "Unit", *names], rows)


def ratios_table(rounds, subject, others, figures):
    """Returns a table of the median ratio of the subject to each other program, with the range."""
    rows = [[title(figure), *(
        spread(ratios(rounds, subject, other, figure.key)) for other in others)] for figure in figures]
    return markdown(["Figure", *(f"{subject} ÷ {other}" for other in others)], rows)


def title(figure):
    return figure.title + (" ↓" if figure.less_is_better else "")


def number(found):
    """Returns the median with three significant digits."""
    if not found:
        return "none"
    middle = median(found)
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if middle >= least:
            return f"{middle:,.{digits}f}"
    return f"{middle:.3f}"


def spread(found):
    if not found:
        return "none"
    middle = f"**{median(found):.2f}**"
    return middle if len(found) == 1 else f"{middle} ({min(found):.2f} to {max(found):.2f})"


def markdown(header, rows):
    """Returns a table whose columns line up in the source; all but the first are right-aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells):
        first, *rest = zip(cells, widths)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(to) for cell, to in rest)]) + " |"
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
