"""Lines over time as an SVG file that needs nothing else."""

import html

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 900, 200, 60, 130, 40, 40
COLOURS = ("#9467bd", "#2ca02c", "#1f77b4", "#d62728")


def ticks(top):
    """Round numbers from nothing to about `top`."""
    step = 1
    while top / step > 6:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return range(0, int(top) + step, step)


def plot(path, title, panels, series):
    """`panels`: a label and the names of its lines; `series`: for each name its (seconds, value)."""
    end = max(at for points in series.values() for at, _ in points)
    across = (WIDTH - LEFT - RIGHT) / end
    height = TOP + len(panels) * (PANEL + GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="22" font-size="14">{html.escape(title)}</text>',
    ]
    colours = iter(COLOURS)
    for number, (label, names) in enumerate(panels.items()):
        bottom = TOP + number * (PANEL + GAP) + PANEL
        marks = ticks(max(1, *(value for name in names for _, value in series[name])))
        up = PANEL / marks[-1]
        for mark in marks:
            y = bottom - mark * up
            out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark}</text>')
        for second in range(0, int(end) + 1, 5 if end < 60 else 10):
            out.append(f'<text x="{LEFT + second * across:.1f}" y="{bottom + 16}" text-anchor="middle">{second} s</text>')
        out.append(f'<text transform="translate(16 {bottom - PANEL / 2}) rotate(-90)" text-anchor="middle">{label}</text>')
        for line, name in enumerate(names):
            colour = next(colours)
            # A value holds until the next: steps.
            points, last = [], None
            for at, value in series[name]:
                x, y = LEFT + at * across, bottom - value * up
                if last is not None and last != y:
                    points.append(f"{x:.1f},{last:.1f}")
                points.append(f"{x:.1f},{y:.1f}")
                last = y
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(points)}"/>')
            out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{bottom - PANEL + 14 + 16 * line}" fill="{colour}">{name}</text>')
    out.append("</svg>\n")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(out))
