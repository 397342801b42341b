"""The shell of every page: one file, no network; its policy names its own script by digest."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape

__all__ = ["embedded_json", "page"]

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2330;--soft:#5d6675;--line:#e3e5ea;--grid:#eceef2;
--c0:#0b62c4;--c1:#c8500a;--c2:#0a7f62;--c3:#a03a8c;--c4:#8a6d00;--c5:#5a5f6b;--accent:#c8500a;--mark:#98a0ae;
--ok:#0a7f62;--warn:#9a5b00}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1a1e26;--ink:#e8ebf1;--soft:#9aa4b5;--line:#2c323d;
--grid:#262b35;--c0:#6fb1ff;--c1:#ff9d5c;--c2:#4fd0ac;--c3:#e48fd2;--c4:#e0c04a;--c5:#a9b0bd;--accent:#ff9d5c;
--mark:#6b7485;--ok:#4fd0ac;--warn:#f0b35a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:36px 0 12px}
.sub{color:var(--soft);margin:6px 0 0}.sub+.panel{margin-top:10px}
.badge{display:inline-block;border:1px solid currentColor;border-radius:99px;
padding:1px 10px;font-size:12px;font-weight:600;vertical-align:5px;margin-left:10px;color:var(--warn)}
.badge.done{color:var(--ok)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(112px,1fr));gap:10px;margin:22px 0 0;padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.facts dt{color:var(--soft);font-size:12.5px}.facts dd{margin:2px 0 0;font-size:19px;font-weight:600;
font-variant-numeric:tabular-nums;letter-spacing:-.01em;overflow-wrap:anywhere}
.wide{grid-template-columns:repeat(auto-fit,minmax(min(150px,100%),1fr));margin:12px 0 0}.wide dd{font-size:16px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(550px,100%),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 14px 8px}
figcaption{font-weight:600;display:flex;justify-content:space-between;gap:12px;min-height:23px}
figcaption output{font-weight:400;color:var(--soft);font-size:12.5px;font-variant-numeric:tabular-nums;
text-align:right}
text{fill:var(--soft);font-size:12px}.end{text-anchor:end}.middle{text-anchor:middle}
text.legend{fill:var(--ink);font-size:12.5px}
figure{overflow-x:auto}.chart{display:block;width:100%;min-width:520px;height:auto;overflow:visible}
.chart text,.chart text.legend{font-size:13px}
.grid{stroke:var(--grid)}.axis{stroke:var(--mark)}.cursor{stroke:var(--soft);stroke-dasharray:2 3}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.d1{stroke-dasharray:none}.d2{stroke-dasharray:7 3}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
.c5{stroke:var(--c5)}
.rewrite line{stroke:var(--mark);stroke-width:1;opacity:.38}.rewrite path{fill:var(--accent)}
.rewrite:hover line{opacity:1;stroke:var(--accent)}
.height{fill:var(--c3)}.contour{fill:none;stroke:var(--ink);stroke-width:.8;opacity:.55}
.stop{fill:var(--c0);stroke:var(--card)}
.phase line{stroke:var(--soft);stroke-dasharray:5 4}.phase text{font-style:italic}
.panel{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px}.scroll{overflow-x:auto}
.wire{stroke:var(--mark);stroke-width:1.5}.span{fill:none;stroke:var(--mark)}.overview{display:block;margin:0 0 12px}
.overview rect{stroke-width:1.5;fill-opacity:.16}.overview .grown rect{fill-opacity:.62}
.overview g:hover rect{fill-opacity:.9}
.overview rect{paint-order:stroke}.loose rect{fill:var(--c5);stroke:var(--c5)}
.s0 rect{fill:var(--c0);stroke:var(--c0)}.s1 rect{fill:var(--c1);stroke:var(--c1)}
.s2 rect{fill:var(--c2);stroke:var(--c2)}
.s3 rect{fill:var(--c3);stroke:var(--c3)}.s4 rect{fill:var(--c4);stroke:var(--c4)}
.s5 rect{fill:var(--c5);stroke:var(--c5)}
.hidden{position:absolute;width:0;height:0}
details{border-top:1px solid var(--line)}summary{cursor:pointer;padding:7px 4px}
summary span{color:var(--soft);font-size:13px}
summary:focus-visible{outline:2px solid var(--c0);border-radius:4px}
.born{color:var(--accent);font-style:normal;font-size:12.5px}
.blocks{margin-left:20px}.layers{display:block;margin:4px auto 14px}
.edge{fill:none;stroke:var(--mark);stroke-width:1.4}.entry rect{fill:none;stroke:var(--mark)}
.name,.op{text-anchor:middle}text.name{fill:var(--ink);font-weight:600}text.op{font-size:11px}
[class^=op-] rect{fill-opacity:.13;stroke-width:1.2}.op-weight rect{fill:var(--c0);stroke:var(--c0)}
.op-norm rect{fill:var(--c5);stroke:var(--c5)}.op-act rect{fill:var(--c4);stroke:var(--c4)}
.op-merge rect{fill:var(--c2);stroke:var(--c2)}.op-pool rect{fill:var(--c3);stroke:var(--c3)}
.op-other rect{fill:var(--c5);stroke:var(--mark)}
.tools{display:flex;gap:8px;justify-content:flex-end;margin:0 0 8px}
button{font:inherit;font-size:13px;color:var(--ink);
background:none;border:1px solid var(--line);border-radius:6px;padding:2px 10px;cursor:pointer}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:var(--card);text-align:left;color:var(--soft);font-weight:600;white-space:nowrap}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}
td.number,th.number{text-align:right;white-space:nowrap}
td.whole{white-space:nowrap}
.cells{width:auto}.cells td,.cells th{text-align:center;padding:4px 8px;min-width:36px}
.cells tbody th{text-align:left;position:static;white-space:normal;max-width:220px;overflow-wrap:anywhere}
.classes td:first-child{overflow-wrap:anywhere;min-width:84px}
@media (max-width:560px){.classes th,.classes td,.cells th,.cells td{padding:6px 4px}
.cells tbody th{max-width:150px}.cells td,.cells th{min-width:30px}}
.warnings{margin:0;padding:12px 14px 12px 32px;border-color:var(--warn)}.warnings li{overflow-wrap:anywhere}
td.why{min-width:260px}.tall{max-height:560px;overflow:auto}.kind{font-weight:600;white-space:nowrap}
.kind.rewrite{color:var(--c1)}
.kind.declined{color:var(--warn)}.kind.freeze{color:var(--c0)}.kind.end{color:var(--c2)}
pre{margin:0;overflow:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;max-height:560px}
footer{color:var(--soft);font-size:12.5px;margin-top:40px}
@media print{body{background:#fff}.tall,pre{max-height:none}.tools{display:none}}
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
let live = 0;
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const series = data[svg.dataset.chart];
  const out = svg.parentElement.querySelector("output");
  const cursor = svg.querySelector(".cursor");
  const [x0, x1, low, high] = ["x0", "x1", "low", "high"].map(key => Number(svg.dataset[key]));
  if (!series || !out) continue;
  live += 1;
  const leave = () => { cursor.setAttribute("visibility", "hidden"); out.textContent = ""; };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const epoch = Math.round(low + (at - x0) / (x1 - x0) * (high - low));
    const found = series.filter(line => line.at[epoch] !== undefined).map(line => line.name + " " + line.at[epoch]);
    if (!found.length) return leave();
    const x = x0 + (epoch - low) / (high - low) * (x1 - x0);
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); cursor.setAttribute("visibility", "visible");
    out.textContent = svg.dataset.x + " " + epoch + ": " + found.join(", ");
  });
}
for (const button of document.querySelectorAll("button[data-open]")) {
  button.addEventListener("click", () => {
    for (const fold of document.querySelectorAll("#network details")) fold.open = button.dataset.open === "1";
  });
}
document.documentElement.dataset.ready = "charts-" + live;
"""


def embedded_json(value: object) -> str:
    """JSON that may stand in a script element: no `<` is left that could end it or start a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, body: str, data: object, style: str = "", script: str = "") -> str:
    """A whole document around `body` (HTML), with `data` for the script. The policy forbids anything from elsewhere.

    `style` and `script` go on where those of every page end.
    """
    digest = base64.b64encode(hashlib.sha256((SCRIPT + script).encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>\n{body}\n</main>\n"
        f'<script type="application/json" id="data">{embedded_json(data)}</script>\n'
        f"<script>{SCRIPT}{script}</script></body></html>\n"
    )
