"""The looks that all pages and charts share, in light and dark."""

LINES = 8  # colours of lines; more lines than that begin again with the first

COLOURS = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f6f6f8; --ink: #1d1d1f; --faint: #62626a; --rule: #d9d9de;
  --plain: #7a828c; --good: #18794e; --warn: #b45309; --bad: #b3261e; --c0: #0072b2; --c1: #d55e00; --c2: #7b3294;
  --c3: #008060; --c4: #c2186b; --c5: #8a6d00; --c6: #2b9fd9; --c7: #55555d; }
@media (prefers-color-scheme: dark) { :root { --paper: #18181b; --panel: #222227; --ink: #ececf0; --faint: #a3a3ad;
  --rule: #3a3a43; --plain: #98a0aa; --good: #4cc38a; --warn: #f0a53c; --bad: #ff8a80; --c0: #56b4e9; --c1: #ff9248;
  --c2: #cf9fe8; --c3: #3fcfa4; --c4: #ff7eb6; --c5: #e0c341; --c6: #9adcff; --c7: #b9b9c2; } }
"""

CHART = """
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
svg text.name { fill: var(--ink); }
.rule { stroke: var(--rule); } .zero { stroke: var(--faint); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
""" + "".join(
    [
        *(f".c{i} {{ stroke: var(--c{i}); background: var(--c{i}); }}\n" for i in range(LINES)),
        *(f"svg .{t} {{ stroke: var(--{t}); fill: var(--{t}); }}\n" for t in ("plain", "good", "warn", "bad")),
    ]
)

PAGE = """
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .5rem 0; max-width: 48rem; } .note { color: var(--faint); font-size: .9rem; }
p.good { color: var(--good); } p.warn { color: var(--warn); } p.bad { color: var(--bad); }
.verdict { font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.tile { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; border-top: 3px solid var(--rule); }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
.tile.good { border-color: var(--good); } .tile.warn { border-color: var(--warn); }
.tile.bad { border-color: var(--bad); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .22rem .9rem .22rem 0; text-align: right; vertical-align: bottom; }
th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--faint); white-space: pre-line; }
td { border-bottom: 1px solid var(--rule); }
tbody:not(:last-child) tr:last-child td { border-bottom-color: var(--faint); }
.label { text-align: left; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: .2rem 1rem; } dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
details { border-left: 4px solid var(--rule); background: var(--panel); padding: .35rem .9rem; margin: .5rem 0; }
details.good { border-color: var(--good); } details.warn { border-color: var(--warn); }
details.bad { border-color: var(--bad); } summary { cursor: pointer; font-weight: 600; }
ul { padding-left: 1.2rem; margin: .4rem 0; } li { overflow-wrap: anywhere; margin: .15rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1.5rem 1.2rem; }
figure { margin: .6rem 0; min-width: 0; } figcaption { font-size: .9rem; font-weight: 600; }
img { width: 100%; height: auto; border-radius: .3rem; display: block; }
.legend { font-size: .82rem; color: var(--faint); margin: .1rem 0; display: flex; flex-wrap: wrap; gap: 0 .9rem; }
.key { display: inline-block; width: 1.1rem; height: 3px; margin-right: .35rem; vertical-align: middle; }
@media (max-width: 40rem) { body { margin-top: 1rem; } h2 { margin-top: 1.8rem; }
  table { font-size: .84rem; } th, td { padding-right: .55rem; } details { padding: .35rem .6rem; }
  .tile { padding: .55rem .7rem; } .tile b { font-size: 1.4rem; } }
"""
