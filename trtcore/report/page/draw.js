// Layout by dagre, one group at a time; drawing as SVG; panning and zooming.
const SVG = "http://www.w3.org/2000/svg";
const svg = document.getElementById("graph");
const world = document.getElementById("world");
const HEAD = 26, PAD = 14;

function shape(tag, attributes, ...children) {
  const one = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}
const clipped = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const textWidth = (text, each) => text.length * each;

function subtitle(box) {
  if (box.kind === "op") return clipped(box.node.outputs[0] || "", 34);
  if (box.kind === "io") return clipped(box.type, 34);
  const torch = [...box.share].reduce((sum, [name, count]) => sum + (isTorch(name) ? count : 0), 0);
  return `${box.ops} op${box.ops === 1 ? "" : "s"}` + (torch && torch < box.ops ? `, ${torch} in torch` : "");
}
function title(box) {
  const kind = box.path ? data.modules[box.path] : "";
  return clipped(kind ? `${box.label} · ${kind}` : box.label, 38);
}
function naturalSize(box) {
  const width = Math.max(textWidth(title(box), 6.9), textWidth(subtitle(box), 6.5)) + (box.kind === "group" ? 46 : 24);
  return { width: Math.min(300, Math.max(84, width)), height: box.kind === "group" ? 48 : 40 };
}

/** The size of a box; of an unfolded group, with a place for each of its children. Kept until something in it changes. */
function layout(box) {
  if (!box.open || box.kind !== "group") return naturalSize(box);
  if (box.layout) return box.layout;
  if (!box.children.length) return (box.layout = { width: 1, height: 1, places: new Map(), lines: [] });
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, marginx: 0, marginy: 0 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const child of box.children) graph.setNode(child.id, { ...layout(child) });
  for (const edge of box.edges) graph.setEdge(edge.a.id, edge.b.id, {});
  dagre.layout(graph);
  const top = box.parent ? HEAD + PAD : 0, left = box.parent ? PAD : 0;
  const least = box.parent ? textWidth(title(box), 7.4) + 56 : 0;
  const width = Math.max(graph.graph().width + 2 * left, least);
  const shift = (width - graph.graph().width) / 2;
  const places = new Map();
  for (const child of box.children) {
    const at = graph.node(child.id);
    places.set(child, { x: at.x - at.width / 2 + shift, y: at.y - at.height / 2 + top });
  }
  const lines = box.edges.map((edge) => graph.edge(edge.a.id, edge.b.id).points.map((p) => [p.x + shift, p.y + top]));
  return (box.layout = { width, height: graph.graph().height + top + left, places, lines });
}
function forget(box) { for (const one of box.above()) one.layout = null; }

function curve(points) {
  let path = `M${points[0][0].toFixed(1)},${points[0][1].toFixed(1)}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i], [nx, ny] = points[i + 1];
    const end = i === points.length - 2 ? [nx, ny] : [(x + nx) / 2, (y + ny) / 2];
    path += `Q${x.toFixed(1)},${y.toFixed(1)} ${end[0].toFixed(1)},${end[1].toFixed(1)}`;
  }
  if (points.length === 2) path += `L${points[1][0].toFixed(1)},${points[1][1].toFixed(1)}`;
  return path;
}

const view = { x: 0, y: 0, scale: 1, tree: null, elements: new Map(), edges: [], selected: null, matches: new Set() };

function place() { world.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`); }

/** Draw the tree. `anchor`, a box, stays where it is on the screen. */
function draw(anchor) {
  const before = anchor && view.elements.get(anchor.id)?.at;
  view.elements = new Map();
  view.edges = [];
  const root = view.tree.root;
  view.size = layout(root);
  const marker = shape("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" },
    shape("path", { d: "M0,0 L8,4 L0,8 z" }));
  world.replaceChildren(shape("defs", {}, marker), drawChildren(root, 0, 0));
  const now = anchor && view.elements.get(anchor.id)?.at;
  if (before && now) {
    view.x += (before.x - now.x) * view.scale;
    view.y += (before.y - now.y) * view.scale;
  }
  place();
  mark();
}
function drawChildren(group, x, y) {
  const holder = shape("g", {});
  const found = layout(group);
  found.lines.forEach((points, index) => {
    const line = shape("path", { class: "edge", d: curve(points.map(([px, py]) => [px + x, py + y])), "marker-end": "url(#tip)" });
    view.edges.push({ line, edge: group.edges[index] });
    holder.append(line);
  });
  for (const child of group.children) {
    const at = found.places.get(child);
    holder.append(drawBox(child, x + at.x, y + at.y));
  }
  return holder;
}
function look(box) {
  const shares = [...box.share.keys()];
  if (box.kind === "io") return "io plain";
  if (box.kind === "op") return isTorch(box.segment) ? "torch" : "";
  if (box.segment) return isTorch(box.segment) ? "torch" : "";
  return shares.length === 1 ? (isTorch(shares[0]) ? "torch" : "") : "plain";
}
function hue(box) {
  if (box.segment) return hueOf(box.segment);
  return box.share.size === 1 ? hueOf(box.share.keys().next().value) : 0;
}
function drawBox(box, x, y) {
  const { width, height } = layout(box);
  const kind = box.kind === "group" ? (box.open ? "unfolded" : "folded") : box.kind;
  const one = shape("g", { class: `${kind} ${look(box)}`, style: `--h:${hue(box)}`, "data-id": box.id });
  one.append(shape("rect", { class: "box", x, y, width, height, rx: box.kind === "io" ? height / 2 : 7 }));
  if (kind === "unfolded") {
    one.append(shape("path", { class: "head", d: `M${x + 1},${y + HEAD} V${y + 8} a7,7 0 0 1 7,-7 H${x + width - 8} a7,7 0 0 1 7,7 V${y + HEAD} z` }));
    one.append(label(x + 12, y + 17, "▾ " + title(box), "title"), drawChildren(box, x, y));
  } else {
    const middle = x + width / 2, low = subtitle(box);
    one.append(label(middle, y + (low ? 17 : height / 2 + 4), (kind === "folded" ? "▸ " : "") + title(box), "title", "middle"));
    if (low) one.append(label(middle, y + 32, low, "sub", "middle"));
    if (kind === "folded") one.append(shareBar(box, x + 8, y + height - 8, width - 16));
  }
  view.elements.set(box.id, { element: one, at: { x, y, width, height }, box });
  return one;
}
function label(x, y, text, style, anchor = "start") {
  const one = shape("text", { x, y, class: style, "text-anchor": anchor });
  one.textContent = text;
  return one;
}
function shareBar(box, x, y, width) {
  const holder = shape("g", {});
  for (const [name, count] of box.share) {
    const part = (width * count) / box.ops;
    holder.append(shape("rect", { class: "share" + (isTorch(name) ? " torch" : ""), style: `--h:${hueOf(name)}`, x, y, width: part, height: 4 }));
    x += part;
  }
  return holder;
}

/** What is selected, what the search found, and the edges of the selected box. */
function mark() {
  for (const { element, box } of view.elements.values()) {
    element.classList.toggle("selected", box === view.selected);
    element.classList.toggle("match", view.matches.has(box.id));
  }
  const chosen = view.selected;
  for (const { line, edge } of view.edges) {
    const lit = chosen && (edge.a === chosen || edge.b === chosen || edge.ends.some(([name, box]) => box === chosen || name === chosen.node?.name));
    line.classList.toggle("lit", Boolean(lit));
  }
}

// -- where one looks -------------------------------------------------------------------------------------

function fit() {
  const { clientWidth, clientHeight } = svg;
  const whole = Math.min((clientWidth - 40) / view.size.width, (clientHeight - 110) / view.size.height, 1.15);
  view.scale = Math.max(whole, Math.min(0.8, (clientWidth - 40) / view.size.width)); // a tall graph is read from its top
  view.x = (clientWidth - view.size.width * view.scale) / 2;
  const free = clientHeight - view.size.height * view.scale;
  view.y = free > 110 ? 60 + (free - 110) / 2 : 60;
  place();
}
function zoom(factor, x = svg.clientWidth / 2, y = svg.clientHeight / 2) {
  const scale = Math.min(4, Math.max(0.03, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  place();
}
function show(box) {
  const closed = [...box.above()].slice(1).some((one) => !one.open);
  if (closed) {
    view.tree.reveal(box);
    forget(box);
    for (const one of box.above()) one.layout = null;
    draw();
  }
  const { at } = view.elements.get(box.id);
  view.scale = Math.max(view.scale, 0.75);
  if (at.width * view.scale > svg.clientWidth) view.scale = Math.max(0.1, (svg.clientWidth - 40) / at.width);
  view.x = svg.clientWidth / 2 - (at.x + at.width / 2) * view.scale;
  const tall = at.height * view.scale > svg.clientHeight - 100;
  view.y = tall ? 60 - at.y * view.scale : svg.clientHeight / 2 - (at.y + at.height / 2) * view.scale;
  place();
  mark();
}

const pointers = new Map();
let moved = 0;
svg.addEventListener("pointerdown", (event) => {
  if (!pointers.size) moved = 0;
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
});
svg.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
  moved += Math.abs(dx) + Math.abs(dy);
  if (moved > 4 && !svg.hasPointerCapture(event.pointerId)) { svg.setPointerCapture(event.pointerId); svg.classList.add("dragging"); }
  if (pointers.size === 1) { view.x += dx; view.y += dy; place(); }
  else if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const far = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    const box = svg.getBoundingClientRect();
    zoom(far([event.clientX, event.clientY]) / far(last), (event.clientX + other[0]) / 2 - box.left, (event.clientY + other[1]) / 2 - box.top);
  }
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
});
for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, (event) => { pointers.delete(event.pointerId); svg.classList.remove("dragging"); });
svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
svg.addEventListener("click", (event) => {
  if (moved > 4) return;
  const element = event.target.closest("[data-id]");
  const box = element && view.tree.boxes.get(element.dataset.id);
  if (!box) return select(null);
  if (box.kind === "group" && (!box.open || event.target.classList.contains("head"))) toggle(box);
  select(box);
});
function toggle(box) {
  box.open = !box.open;
  forget(box);
  draw(box);
}
