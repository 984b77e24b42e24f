"use strict";
/* Two views side by side: marks, a list of changes, linked selection, search. */
(() => {
  const data = JSON.parse(document.getElementById("pair").textContent);
  const $ = id => document.getElementById(id);
  const signs = { changed: "~", added: "+", removed: "−", moved: "›" };
  const make = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

  const partner = [new Map(data.partners), new Map(data.partners.map(([a, b]) => [b, a]))];
  const marks = [new Map(), new Map()];
  data.entries.forEach(entry => {
    [entry.left, entry.right].forEach((box, side) => { if (box >= 0 && !marks[side].has(box)) marks[side].set(box, entry.mark); });
  });
  data.marks.forEach((list, side) => list.forEach(([box, mark]) => { if (!marks[side].has(box)) marks[side].set(box, mark); }));
  const entryOf = [new Map(), new Map()];
  data.entries.forEach((entry, i) => {
    [entry.left, entry.right].forEach((box, side) => { if (box >= 0 && !entryOf[side].has(box)) entryOf[side].set(box, i); });
  });

  $("title").textContent = data.title; $("summary").textContent = data.summary;
  const sections = [...document.querySelectorAll(".view")];
  sections.forEach((section, side) => { section.querySelector("h2").textContent = data.names[side]; });
  const views = sections.map((section, side) => new GraphView(section.querySelector("canvas"), data.sides[side], {
    marks: marks[side],
    onSelect: box => select(side, box),
    onMove: (dx, dy, factor, x, y) => {
      const real = factor === 1 ? 1 : views[side].zoom(factor, x, y);
      views[side].pan(dx, dy);
      if (!$("linked").checked) return;
      const other = views[1 - side];
      if (real !== 1) other.zoom(real, x, y);
      other.pan(dx, dy);
    },
  }));

  /* --- selection --- */

  let current = -1;

  /* Selects a box, and its partner on the other side, which comes to the same height. */
  function select(side, box, reveal = false) {
    const other = box >= 0 && partner[side].has(box) ? partner[side].get(box) : -1;
    const boxes = side === 0 ? [box, other] : [other, box];
    show(boxes, box >= 0 ? entryOf[side].get(box) ?? -1 : -1);
    if (box < 0) return;
    if (reveal) views[side].reveal(box);
    if (other >= 0) align(side, box, other, reveal);
  }

  function align(side, box, other, reveal) {
    const view = views[side], b = view.boxes[box], scale = reveal ? Math.max(view.scale, 0.75) : view.scale;
    const height = reveal ? view.height / 2 : view.y + (b.y + Math.min(b.h, 200) / 2) * scale;
    views[1 - side].reveal(other, scale, height);
  }

  function show(boxes, entry) {
    boxes.forEach((box, side) => views[side].select(box));
    current = entry;
    $("at").textContent = data.entries.length ? `${entry >= 0 ? entry + 1 : "–"} / ${data.entries.length}` : "no change";
    for (const button of $("entries").querySelectorAll("[aria-current=true]")) button.removeAttribute("aria-current");
    const button = entry >= 0 ? $("entries").children[entry] : null;
    if (button && button.dataset) { button.setAttribute("aria-current", "true"); button.scrollIntoView({ block: "nearest" }); }
    details(boxes, entry);
  }

  function go(index) {
    if (!data.entries.length) return;
    index = (index + data.entries.length) % data.entries.length;
    const { left, right } = data.entries[index];
    if (left >= 0 || right >= 0) {
      const side = left >= 0 ? 0 : 1;
      select(side, side ? right : left, true);
    }
    show([left, right], index);
    const other = left >= 0 && right >= 0;
    if (!other && (left >= 0 || right >= 0)) beside(left >= 0 ? 0 : 1, left >= 0 ? left : right);
  }

  /* A node of one graph only: the other view goes to the nearest neighbour that has a partner. */
  function beside(side, box) {
    const view = views[side], seen = new Set([box]);
    let ring = [box];
    while (ring.length && seen.size < 2000) {
      const next = [];
      for (const at of ring) for (const edge of view.near.get(at) || []) {
        const end = edge.from === at ? edge.to : edge.from;
        if (seen.has(end)) continue;
        seen.add(end); next.push(end);
        if (partner[side].has(end)) {
          const scale = Math.max(view.scale, 0.75), shift = (view.boxes[end].y - view.boxes[box].y) * scale;
          views[1 - side].reveal(partner[side].get(end), scale, view.height / 2 + Math.max(Math.min(shift, 200), -200));
          return;
        }
      }
      ring = next;
    }
    for (let at = view.boxes[box].parent; at >= 0; at = view.boxes[at].parent)
      if (partner[side].has(at)) return views[1 - side].reveal(partner[side].get(at));
  }

  /* --- details --- */

  function details(boxes, entry) {
    const nothing = boxes.every(box => box < 0) && entry < 0;
    $("details").hidden = nothing;
    if (nothing) return;
    $("what").replaceChildren();
    if (entry >= 0) {
      const { mark, title, about, lines } = data.entries[entry];
      const head = make("div");
      head.append(make("b", `${signs[mark]} ${title} `, mark), about);
      $("what").append(head);
      for (const [what, before, after] of lines) {
        const line = make("div", what ? `${what}: ` : "");
        if (before || after) line.append(make("del", before || "none"), " → ", make("ins", after || "none"));
        $("what").append(line);
      }
    }
    const known = boxes.map((box, side) => box >= 0 ? views[side].boxes[box] : null);
    const columns = [...document.querySelectorAll(".columns > div")];
    columns.forEach((column, side) => column.replaceChildren(...describe(known[side], known[1 - side], side)));
  }

  function describe(box, other, side) {
    if (!box) return [make("span", other ? "no partner on this side" : "", "none")];
    const head = make("h3", box.kind === "region" || box.kind === "node" ? box.title : `${box.kind} ${box.title}`);
    head.append(make("small", box.name));
    const table = make("table");
    const theirs = new Map(other ? other.attrs : []);
    const row = (key, text, odd) => {
      const line = make("tr"), cell = make("td", "", odd ? (side ? "new" : "old") : "");
      cell.append(make("code", text)); line.append(make("td", key), cell); table.append(line);
    };
    for (const [name, value] of box.attrs) row(name, value, other && theirs.get(name) !== value);
    const text = ([name, type]) => name ? `%${name}: ${type}` : "(none)";
    const type = list => list.map(([, type]) => type);
    box.inputs.forEach((one, i) => row(`input ${i}`, text(one), other && type(other.inputs)[i] !== one[1]));
    box.outputs.forEach((one, i) => row(`output ${i}`, text(one), other && type(other.outputs)[i] !== one[1]));
    return [head, table];
  }

  /* --- the list and the search --- */

  const list = $("entries");
  data.entries.forEach((entry, index) => {
    const button = make("button");
    button.append(make("span", signs[entry.mark], `sign ${entry.mark}`), make("b", entry.title));
    if (entry.about) button.append(make("small", entry.about, "about"));
    for (const [what, before, after] of entry.lines.slice(0, 4))
      button.append(make("small", before || after ? `${what}${what ? ": " : ""}${before || "none"} → ${after || "none"}` : what));
    button.addEventListener("click", () => go(index));
    button.dataset.index = index;
    list.append(button);
  });
  if (!data.entries.length) list.append(make("div", "Nothing differs.", "none"));

  let matches = [], match = -1;
  function search(text) {
    const wanted = text.trim().toLowerCase();
    matches = [];
    views.forEach((view, side) => {
      view.hits = new Set();
      if (!wanted) return view.paint();
      view.boxes.forEach((box, i) => {
        const names = [box.title, box.name, ...box.outputs.map(([name]) => name)];
        if (box.kind !== "body" && names.some(name => name.toLowerCase().includes(wanted))) { view.hits.add(i); matches.push([side, i]); }
      });
      view.paint();
    });
    match = -1;
    $("found").textContent = wanted ? `${matches.length} found` : "";
  }
  function step(by) {
    if (!matches.length) return;
    match = (match + by + matches.length) % matches.length;
    $("found").textContent = `${match + 1} of ${matches.length}`;
    select(...matches[match], true);
  }
  $("search").addEventListener("input", event => search(event.target.value));
  $("search").addEventListener("keydown", event => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") { event.target.value = ""; search(""); event.target.blur(); }
    event.stopPropagation();
  });
  $("next").addEventListener("click", () => go(current + 1));
  $("previous").addEventListener("click", () => go(current < 0 ? -1 : current - 1));
  $("fit").addEventListener("click", () => views.forEach(view => view.fit()));
  $("close").addEventListener("click", () => select(0, -1));
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { n: () => go(current + 1), p: () => go(current < 0 ? -1 : current - 1), 0: () => views.forEach(view => view.fit()),
      "/": () => $("search").focus(), Escape: () => select(0, -1) }[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  show([-1, -1], -1);
  views.forEach(view => { view.fit(0.55); view.draw(); });
  const root = document.documentElement;
  root.dataset.painted = Math.round(performance.now());
  root.dataset.nodes = views.map(view => view.boxes.length).join(" ");
  window.graphoptPair = { views, select, go, search, step };
  const wish = new URLSearchParams(location.hash.slice(1));
  if (wish.has("change")) go(Number(wish.get("change")) - 1);
  if (wish.has("search")) { $("search").value = wish.get("search"); search(wish.get("search")); step(1); }
})();
