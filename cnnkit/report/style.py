"""The style sheet of the page: light and dark, narrow and wide, screen and print. No fonts or files from elsewhere."""

#: Steps of colour in the confusion matrix.
STEPS = 10

_SHEET = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --muted: #57606a; --line: #d8dee4; --accent: #0b62b8;
  --bar: #9ec7ee; --soft: #dbe9f7; --good: #17703a; --bad: #b02a1f; --good-back: #e3f4e8; --bad-back: #fce8e6; --heat: 11 98 184;
  --deep: #fff }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --card: #171c23; --ink: #e8ecf1; --muted: #9aa5b1; --line: #313944;
  --accent: #6cb2f5;
  --bar: #2f5f90; --soft: #1d3650; --good: #63d18b; --bad: #ff8d80; --good-back: #15301f; --bad-back: #3c1c1a; --heat: 76 158 235;
  --deep: #06121d } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif }
main, header, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px }
header { padding-top: 32px }
header p { max-width: none }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 0 0 12px; line-height: 1.3 }
h3 { font-size: 15px; margin: 20px 0 6px }
p { margin: 0 0 10px; max-width: 80ch; overflow-wrap: anywhere }
a { color: var(--accent) }
.muted, footer { color: var(--muted) }
nav { margin: 12px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 2px 18px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px; margin: 18px 0 }
footer { font-size: 13px; padding-bottom: 32px }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 18px; align-items: start }
.matrix + table, .scroll + .scroll { margin-top: 20px }
.inner { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 12px 36px; align-items: start }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 128px), 1fr)); gap: 12px; margin: 20px 0 0; padding: 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; margin: 0; display: flex;
  flex-direction: column }
.tile dt { font-size: 13px; color: var(--muted) }
.tile dd { margin: 0; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3 }
.tile dd small { display: block; font-size: 12.5px; font-weight: 400; color: var(--muted); line-height: 1.4 }
.tile.main { grid-column: span 2 }
.tile.main dd { font-size: 36px; color: var(--accent) }
.name { overflow-wrap: anywhere; white-space: pre-wrap }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100% }
caption { text-align: start; color: var(--muted); padding: 0 0 8px; font-size: 14px }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: start; vertical-align: top }
thead th { font-weight: 600; color: var(--muted); white-space: nowrap; font-size: 13px }
tbody th { font-weight: 500 }
td.number, th.number { text-align: end; white-space: nowrap }
td.wide { overflow-wrap: anywhere; min-width: 92px }
.limited .name { text-align: left; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden }
.classes th[scope=row] { min-width: 130px; max-width: 320px }
.classes td.wide { max-width: 260px }
.share { display: block; width: 100%; min-width: 60px; max-width: 150px; height: 7px; border-radius: 4px; background: var(--soft);
  margin-top: 8px }
.share i { display: block; height: 100%; border-radius: 4px; background: var(--accent) }
.facts th { width: 34%; color: var(--muted); font-weight: 400; overflow-wrap: anywhere }
.facts td { overflow-wrap: anywhere }
.matrix { width: auto; border-collapse: separate; border-spacing: 2px }
.matrix th, .matrix td { border: 0; padding: 4px 6px; font-size: 13px }
.matrix td { min-width: 54px; height: 42px; text-align: center; vertical-align: middle; border-radius: 4px }
.matrix tbody th { text-align: end; vertical-align: middle; max-width: 150px; color: var(--ink) }
.matrix .name { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; display: inline-block; max-width: 140px;
  vertical-align: bottom }
.matrix thead th { vertical-align: bottom; text-align: center; color: var(--ink); font-weight: 500; padding: 2px }
.matrix.turned thead .name { writing-mode: vertical-rl; transform: rotate(180deg); max-width: none; max-height: 130px }
.matrix.dense td { min-width: 26px; height: 26px; padding: 1px; font-size: 11.5px }
.matrix.dense th { font-size: 12px }
.matrix td.hit { outline: 1.5px solid var(--muted); outline-offset: -1.5px }
.corner { color: var(--muted); font-weight: 400; white-space: nowrap; font-size: 12px }
.tile.bad dd { color: var(--bad) }
.verdict { display: inline-block; border-radius: 20px; padding: 1px 11px; font-size: 13px; font-weight: 600; white-space: nowrap }
.pass { color: var(--good); background: var(--good-back) }
.fail { color: var(--bad); background: var(--bad-back) }
.chart { display: block; width: 100%; max-width: 560px; height: auto; font-size: 13px }
.chart text { fill: var(--muted) }
.chart text.label { fill: var(--ink) }
.chart text.tiny { font-size: 10.5px }
.grid { stroke: var(--line); stroke-width: 1 }
.axis { stroke: var(--muted); stroke-width: 1 }
.ideal { stroke: var(--muted); stroke-width: 1.3; stroke-dasharray: 5 4 }
.bar { fill: var(--bar); opacity: .6 }
.count { fill: var(--muted); opacity: .55 }
.whisker { stroke: var(--accent); stroke-width: 1.6 }
.dot { fill: var(--accent); stroke: var(--card); stroke-width: 1.3 }
.dot.second { fill: var(--muted) }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round }
.curve.first { stroke: var(--accent) }
.curve.second { stroke: var(--muted); stroke-dasharray: 5 4 }
.band { fill: var(--soft) }
.interval { display: block; width: 100%; max-width: 320px; height: auto; margin: 6px 0 2px }
.track { stroke: var(--line); stroke-width: 3; stroke-linecap: round }
.range { fill: var(--bar) }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 14px; margin: 0; padding: 0;
  list-style: none }
.mistake { border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; display: flex; flex-direction: column;
  gap: 8px }
.pictures { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px; align-items: start }
.pictures.single { grid-template-columns: minmax(0, 1fr) }
.pictures figure { margin: 0; min-width: 0 }
.pictures img { display: block; width: 100%; height: auto; max-height: 180px; object-fit: contain; border-radius: 4px;
  background: var(--page) }
.pictures.single img { max-height: 240px }
.pictures img.small { image-rendering: pixelated }
.pictures figcaption { font-size: 12px; color: var(--muted); text-align: center; margin-top: 3px; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis }
.pictures figcaption .name { white-space: nowrap }
.said { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: 0 10px; margin: 0; font-size: 14px;
  font-variant-numeric: tabular-nums }
.said dt { color: var(--muted) }
.said dd { margin: 0 }
.said dd.value { text-align: end }
.wrong { color: var(--bad); font-weight: 600 }
.path { font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; color: var(--muted); overflow-wrap: anywhere; margin: 0 }
.scale { display: inline-block; width: 120px; height: 10px; border-radius: 5px; vertical-align: middle; margin: 0 6px;
  background: linear-gradient(to right, #000004, #420a68, #932667, #dd513a, #fca50a, #fcffa4) }
details { margin-top: 12px }
summary { cursor: pointer; color: var(--accent) }
@media (max-width: 640px) {
  body { font-size: 14px }
  main, header, footer { padding-left: 12px; padding-right: 12px }
  section { padding: 14px 12px; border-radius: 8px }
  h1 { font-size: 22px }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px }
  .tile { padding: 10px 12px }
  .tile dd { font-size: 20px }
  .tile.main dd { font-size: 30px }
  th, td { padding: 5px 6px }
  .optional { display: none }
  .classes th[scope=row] { min-width: 90px }
  .matrix tbody th { max-width: 96px }
  .matrix .name { max-width: 90px }
  .matrix td { min-width: 38px; height: 34px }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #ccc; --accent: #0b4f94; --bar: #9ec7ee;
  --soft: #dbe9f7;
    --good: #0f5c2e; --bad: #9c2218; --good-back: #e3f4e8; --bad-back: #fce8e6; --heat: 11 98 184; --deep: #fff }
  @page { margin: 14mm }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact }
  body { font-size: 10pt }
  main, header, footer { max-width: none; padding: 0 }
  nav { display: none }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 12px 0; margin: 8px 0 }
  .columns { grid-template-columns: 1fr }
  .inner { grid-template-columns: 1fr 1fr }
  .mistakes { grid-template-columns: 1fr 1fr }
  .scroll { overflow: visible }
  .chart { max-width: 400px }
  h2, h3, caption, section > p { break-after: avoid }
  tr, .mistake, .tile, .chart, .matrix { break-inside: avoid }
  thead { display: table-header-group }
  .matrix.dense td { min-width: 0; height: 20px; font-size: 7pt }
  .matrix.dense th { font-size: 7pt; padding: 1px 3px }
  .matrix.dense { border-spacing: 1px }
  a { color: inherit; text-decoration: none }
}
"""

#: A class for each step of colour. The square root of the share decides, so that errors of a few percent are visible.
_HEAT = "\n".join(
    f".h{step} {{ background: rgb(var(--heat) / {0.04 + 0.96 * step / (STEPS - 1):.2f}){'; color: var(--deep)' if step >= 6 else ''} }}"
    for step in range(1, STEPS)
)

SHEET = f"{_SHEET}{_HEAT}\n"


def step(share: float) -> int:
    """Return the step of colour of a share, 0 for none."""
    return 0 if share <= 0 else max(1, round(share**0.5 * (STEPS - 1)))
