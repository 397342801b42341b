"""Style and script of the report of a study: what they add to those of every page.

A trial is one number. Whatever shows it (marks, lines, bars, the row of the table) has it as `data-t`, so that pointing
at one highlights all. The words of the tooltip and of the card are those of the trial's row.
"""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root{--q0:#d3dae4;--q1:#b9cbe2;--q2:#93b8de;--q3:#679fd4;--q4:#3b82c4;--q5:#1c64a8;--q6:#0b4380;
--bad:#b3261e;--lost:#b07400;--prune:#a03a8c;--faint:#8f97a5}
@media (prefers-color-scheme:dark){:root{--q0:#333b49;--q1:#3b4c66;--q2:#446488;--q3:#4f80b0;--q4:#62a0d8;--q5:#86c1f5;
--q6:#c9e6ff;--bad:#ff8a80;--lost:#f0b35a;--prune:#e48fd2;--faint:#7d8797}}
main{max-width:1320px}
.tiles .facts{grid-template-columns:repeat(auto-fill,minmax(max(112px,calc(100%/var(--n) - 10px)),1fr))}
.tiles dd{font-size:17px}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(520px,100%),1fr))}.charts+.charts{margin-top:16px}
.wide{margin-top:16px}.full{grid-column:1/-1}.wide,.full{overflow-x:auto}
.wide>.chart,.full>div>.chart{min-width:900px}.tiles+.sub{margin-top:14px}figure .sub{font-size:12.5px;margin:0 0 4px}
.o-complete{--o:var(--c0)}.o-infeasible{--o:var(--faint)}.o-cached{--o:var(--c2)}.o-pruned{--o:var(--prune)}
.o-failed{--o:var(--bad)}.o-lost,.o-preempted{--o:var(--lost)}.o-duplicate,.o-waiting{--o:var(--faint)}
.o-running{--o:var(--c2)}
svg .t{cursor:pointer}
circle.t,path.t:not(.run){fill:var(--o);stroke:var(--card);stroke-width:1}
circle.o-infeasible{fill:var(--card);stroke:var(--o);stroke-width:1.6}
path.o-pruned:not(.run){fill:none;stroke:var(--o);stroke-width:2}
.ring{fill:none;stroke:var(--accent);stroke-width:1.8;pointer-events:none}.ring.plain{stroke:var(--ink)}
text.named{fill:var(--accent);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3.5px;
stroke-linejoin:round;pointer-events:none}text.named.plain{fill:var(--ink)}
.best,.front{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}.front{stroke-dasharray:6 3}
.limit{stroke:var(--warn);stroke-dasharray:3 3;stroke-width:1.4}
path.run{fill:none;stroke:var(--o);stroke-width:1.3;opacity:.55;stroke-linejoin:round}
path.run.winner{stroke:var(--accent);stroke-width:2.4;opacity:1}
.parallel path.run{stroke-width:1.7;opacity:.85}
.parallel path.o-pruned,.parallel path.o-infeasible{stroke:var(--faint);stroke-dasharray:4 3;stroke-width:1;opacity:.5}
.q0{--o:var(--q0)}.q1{--o:var(--q1)}.q2{--o:var(--q2)}.q3{--o:var(--q3)}.q4{--o:var(--q4)}.q5{--o:var(--q5)}
.q6{--o:var(--q6)}
text.halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round;fill:var(--ink);
pointer-events:none}
.grip{fill:transparent;cursor:ns-resize}.brush{fill:var(--accent);fill-opacity:.22;stroke:var(--accent);
pointer-events:none}.brush[height="0"]{display:none}
.parallel .axis{stroke-width:1.4}.parallel{touch-action:pan-x}
.bar rect{fill:var(--o);fill-opacity:.75;stroke:var(--o)}.bar.o-pruned rect{fill-opacity:.45}
.bar.o-infeasible rect{fill-opacity:.25}.bar.o-running rect,.bar.o-waiting rect{fill-opacity:.15;stroke-dasharray:3 2}
.bar text{fill:var(--card);font-size:11px;font-weight:600;pointer-events:none}
.bar.o-infeasible text,.bar.o-running text{fill:var(--ink)}
path.t.retry{fill:none;stroke:var(--lost);stroke-width:1.6;stroke-dasharray:4 3;pointer-events:none;opacity:.4}
path.t.retry.hot{stroke:var(--lost);opacity:1}
.share rect{fill:var(--c0);fill-opacity:.78}
.key{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft);margin:2px 0 6px}
.key span{display:inline-flex;align-items:center;gap:5px}
.key i{width:12px;height:12px;border-radius:3px;background:var(--o)}.key b{width:16px;height:10px;display:block}
.key [hidden]{display:none}.key .scale{gap:0}.scale em{font-style:normal;padding:0 6px}
.tabs{display:flex;flex-wrap:wrap;gap:4px}.tabs button[aria-pressed=true]{background:var(--c0);border-color:var(--c0);
color:var(--card)}
[data-view][hidden]{display:none}
.hot{opacity:1!important}circle.t.hot,path.t.hot:not(.run){stroke:var(--ink);stroke-width:2}
path.run.hot{stroke-width:3.2}.bar.hot rect{stroke:var(--ink);stroke-width:2}
path.run.o-pruned.hot{stroke:var(--prune)}
.dimming:has(.hot) path.run:not(.hot){opacity:.12}
.out{opacity:.06!important;pointer-events:none}tr.out{display:none}
tr.t{cursor:pointer}#trials tr.hot td{background:color-mix(in srgb,var(--c0) 14%,var(--card))}
tr.onfront td{font-weight:600}
#trials td,#trials th{white-space:nowrap;padding:5px 9px}#trials td:first-child,#trials th:first-child{position:sticky;
left:0;background:var(--card);z-index:1}#trials th{cursor:pointer;z-index:2}#trials th[aria-sort]{color:var(--ink)}
#trials th:first-child{z-index:3}#trials th[aria-sort=ascending]::after{content:" ▲"}
#trials th[aria-sort=descending]::after{content:" ▼"}.panel:has(#trials){padding:0 0 6px}
#trials{border-collapse:separate;border-spacing:0}
#trials td.why{min-width:190px;white-space:normal;color:var(--soft)}
td.off{color:var(--faint)}.outcome{color:var(--o);font-weight:600}a{color:var(--c0)}
#tip,#card{position:fixed;z-index:9;background:var(--card);border:1px solid var(--mark);border-radius:8px;
box-shadow:0 6px 24px rgb(0 0 0/.18);font-size:12.5px;padding:9px 12px}
#tip{pointer-events:none;max-width:340px}#card{right:18px;bottom:18px;max-width:380px;max-height:70vh;overflow:auto}
#tip dl,#card dl{display:grid;grid-template-columns:auto auto;gap:1px 14px;margin:4px 0 0}
#tip dt,#card dt{color:var(--soft)}#tip dd,#card dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
#card header{display:flex;gap:10px;align-items:baseline;justify-content:space-between}
#tip[hidden],#card[hidden]{display:none}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--grid);border-radius:5px;
padding:2px 6px}
@media print{#tip,#card{display:none}}
"""

SCRIPT = """
const study = data.study, marks = new Map();
for (const node of document.querySelectorAll("[data-t]")) {
  if (!marks.has(node.dataset.t)) marks.set(node.dataset.t, []);
  marks.get(node.dataset.t).push(node);
}
const table = document.getElementById("trials"), body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells], rows = new Map([...body.rows].map(row => [row.dataset.t, row]));
const tip = document.getElementById("tip"), card = document.getElementById("card");
let hot = null, picked = null;

function facts(row, few) {
  const list = document.createElement("dl");
  heads.forEach((head, index) => {
    const words = row.cells[index].textContent;
    if (!index || !words || words === "-" || (few && index > study.few && head.textContent !== "remarks")) return;
    list.append(Object.assign(document.createElement("dt"), {textContent: head.textContent}),
                Object.assign(document.createElement("dd"), {textContent: words}));
  });
  return list;
}
function light(number) {
  if (hot !== null && hot !== picked) for (const node of marks.get(hot)) node.classList.remove("hot");
  hot = number;
  if (hot !== null) for (const node of marks.get(hot)) node.classList.add("hot");
}
function pick(number) {
  if (picked !== null) for (const node of marks.get(picked)) node.classList.remove("hot");
  picked = picked === number ? null : number;
  card.hidden = picked === null;
  if (picked === null) return;
  for (const node of marks.get(picked)) node.classList.add("hot");
  const row = rows.get(picked), link = row.querySelector("a"), top = document.createElement("header");
  top.append(Object.assign(document.createElement("strong"), {textContent: "Trial " + picked}));
  if (link) top.append(Object.assign(document.createElement("a"), {href: link.href, textContent: "open its report"}));
  const close = Object.assign(document.createElement("button"), {textContent: "close"});
  close.addEventListener("click", () => pick(picked));
  top.append(close);
  card.replaceChildren(top, facts(row, false));
}
document.addEventListener("pointermove", event => {
  const node = event.target.closest ? event.target.closest("[data-t]") : null;
  const number = node ? node.dataset.t : null;
  if (number !== hot) light(number);
  const row = number === null || node.tagName === "TR" ? null : rows.get(number);
  tip.hidden = !row;
  if (!row) return;
  if (tip.dataset.of !== number) {
    tip.dataset.of = number;
    const name = Object.assign(document.createElement("strong"), {textContent: "Trial " + number});
    tip.replaceChildren(name, facts(row, true));
  }
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 16, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - box.height - 8)) + "px";
});
document.addEventListener("click", event => {
  const node = event.target.closest("[data-t]");
  if (node && !event.target.closest("a")) pick(node.dataset.t);
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && picked !== null) pick(picked);
  if (event.key === "Enter" && event.target.dataset && event.target.dataset.t) pick(event.target.dataset.t);
});

for (const button of document.querySelectorAll("button[data-show]")) {
  button.addEventListener("click", () => {
    const figure = button.closest("[data-tabbed]");
    for (const view of figure.querySelectorAll("[data-view]")) view.hidden = view.dataset.view !== button.dataset.show;
    for (const one of figure.querySelectorAll("button[data-show]")) one.setAttribute("aria-pressed", one === button);
  });
}
for (const button of document.querySelectorAll("button[data-colour]")) {
  button.addEventListener("click", () => {
    const index = Number(button.dataset.colour);
    for (const line of document.querySelectorAll(".parallel path[data-q]")) {
      const colour = "q" + line.dataset.q.split(" ")[index];
      line.setAttribute("class", line.getAttribute("class").replace(/\\bq\\d\\b/, colour));
    }
    for (const one of button.parentNode.querySelectorAll("button")) one.setAttribute("aria-pressed", one === button);
    for (const scale of document.querySelectorAll(".scale")) scale.hidden = scale.dataset.of !== button.dataset.colour;
  });
}

heads.forEach((head, index) => head.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const one of heads) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const known = row => row.cells[index].dataset.v;
  body.append(...[...body.rows].sort((one, other) => {
    const a = known(one), b = known(other);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return up ? order : -order;
  }));
}));

const ranges = new Map(), parallel = document.querySelector("svg.parallel");
function filter() {
  let kept = 0;
  for (const [number, nodes] of marks) {
    const ys = study.axes.ys[number];
    const outside = ([axis, [low, high]]) => ys[axis] < low || ys[axis] > high;
    const out = ranges.size > 0 && (!ys || [...ranges].some(outside));
    kept += !out;
    for (const node of nodes) node.classList.toggle("out", out);
  }
  const said = document.getElementById("brushed");
  said.textContent = ranges.size ? kept + " of " + marks.size + " trials match" : "drag along an axis to select trials";
  document.getElementById("unbrush").hidden = !ranges.size;
}
if (parallel) {
  const grips = [...parallel.querySelectorAll(".grip")];
  const at = event => {
    const box = parallel.getBoundingClientRect();
    const y = (event.clientY - box.top) / box.height * parallel.viewBox.baseVal.height;
    return Math.max(study.axes.top - 8, Math.min(study.axes.bottom, y));
  };
  const draw = (axis, low, high) => {
    const brush = grips[axis].parentNode.querySelector(".brush");
    brush.setAttribute("y", low); brush.setAttribute("height", high - low);
  };
  grips.forEach((grip, axis) => {
    let from = null;
    grip.addEventListener("pointerdown", event => { from = at(event); grip.setPointerCapture(event.pointerId); });
    grip.addEventListener("pointermove", event => {
      if (from !== null) draw(axis, Math.min(from, at(event)), Math.max(from, at(event)));
    });
    grip.addEventListener("pointerup", event => {
      const low = Math.min(from, at(event)), high = Math.max(from, at(event));
      if (high - low < 4) { ranges.delete(axis); draw(axis, 0, 0); } else ranges.set(axis, [low, high]);
      from = null;
      filter();
    });
  });
  document.getElementById("unbrush").addEventListener("click", () => {
    ranges.clear(); grips.forEach((_, axis) => draw(axis, 0, 0)); filter();
  });
}
document.documentElement.dataset.ready = "study-" + marks.size + "-charts-" + live;
"""
