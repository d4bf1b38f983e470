"""Converts docs/configuration.md to laneway.conf(5), in man(7) format, on standard output.

Understands what that page uses: headings, paragraphs, code blocks, lists, and tables of keys.
"""

import re
import sys
from pathlib import Path


def inline(text):
    """Converts code, bold and links, and escapes what troff would interpret."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\*\*(.+?)\*\*|`([^`]*)`", lambda m: f"\\fB{m[1] or m[2]}\\fR", text)
    return re.sub(r"^([.'])", r"\\&\1", text)


def table(rows):
    """Converts the rows of a table to tagged paragraphs: the first cell is the tag."""
    head, rows = rows[0], rows[2:]
    for row in rows:
        yield ".TP"
        yield inline(row[0])
        yield inline(row[1]) + "."
        for name, value in list(zip(head, row))[2:]:
            if value:
                yield ".br"
                yield f"{name}: {inline(value)}"


def convert(text):
    yield '.TH LANEWAY.CONF 5 "" laneway "File formats"'
    yield ".SH NAME"
    yield "laneway.conf \\- configuration file and environment variables of laneway"
    yield ".SH DESCRIPTION"
    lines = iter(text.splitlines())
    paragraph, rows, code = [], [], False
    for line in [*lines, ""]:
        if line.startswith("```"):
            code = not code
            yield ".EX" if code else ".EE"
        elif code:
            yield re.sub(r"^([.'])", r"\\&\1", line.replace("\\", "\\e"))
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        elif line.strip() and not line.startswith("#"):
            paragraph.append(re.sub(r"^- ", "", line))
            continue
        if rows:
            yield from table(rows)
            rows = []
        if paragraph:
            yield ".PP"
            yield from map(inline, paragraph)
            paragraph = []
        if line.startswith("### "):
            yield f".SS {inline(line[4:])}"
        elif line.startswith("## "):
            yield f".SH {inline(line[3:]).upper()}"
    yield ".SH SEE ALSO"
    yield "laneway(8), wg(8), wg\\-quick(8)"


if __name__ == "__main__":
    page = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
    sys.stdout.write("\n".join(convert(page.read_text())) + "\n")
